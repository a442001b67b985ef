// AdamW over one arena, the sum of squares of all gradients, and the clipping factor made from it.

typedef unsigned long long u64;

struct Factors {
    float decay, first, keep, second, root, eps, size;
};

__device__ __forceinline__ void update(float& p, float g, float& m, float& v, const Factors& f, float scale) {
    g *= scale;
    m = fmaf(f.first, g - m, m);
    v = fmaf(f.second * g, g, v * f.keep);
    float denominator = fmaf(sqrtf(v), f.root, f.eps);
    p = p * f.decay - f.size * (m / denominator);
}

// Four numbers a thread. `clip` multiplies the gradient; if it is no number, nothing changes.
extern "C" __global__ void __launch_bounds__(256)
adamw(float* __restrict__ values, const float* __restrict__ gradients, float* __restrict__ first,
      float* __restrict__ second, T* __restrict__ working, u64 length, float decay, float first_share, float keep,
      float second_share, float root, float eps, float size, const float* __restrict__ clip, int packed) {
    float scale = *clip;
    if (isnan(scale)) return;
    Factors factors = {decay, first_share, keep, second_share, root, eps, size};
    u64 start = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (packed && start + 4 <= length) {
        PackOf<float> p = load_pack(values + start), g = load_pack(gradients + start);
        PackOf<float> m = load_pack(first + start), v = load_pack(second + start);
#pragma unroll
        for (int i = 0; i < 4; i++) update(p.at[i], g.at[i], m.at[i], v.at[i], factors, scale);
        store_pack(values + start, p);
        store_pack(first + start, m);
        store_pack(second + start, v);
        if (working) {
            struct alignas(4 * sizeof(T)) {
                T at[4];
            } copy;
#pragma unroll
            for (int i = 0; i < 4; i++) copy.at[i] = from_float(p.at[i]);
            *reinterpret_cast<decltype(copy)*>(working + start) = copy;
        }
    } else {
        for (u64 i = start; i < start + 4 && i < length; i++) {
            float p = values[i], m = first[i], v = second[i];
            update(p, gradients[i], m, v, factors, scale);
            values[i] = p;
            first[i] = m;
            second[i] = v;
            if (working) working[i] = from_float(p);
        }
    }
}

// The sum over a block of 256, in every thread.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double shared[8];
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    x = 0.0;
#pragma unroll
    for (int warp = 0; warp < 8; warp++) x += shared[warp];
    return x;
}

// Block b sums what lies at b, b + blocks, ... in units of 1024 elements.
extern "C" __global__ void __launch_bounds__(256)
sum_squares_parts(const float* __restrict__ x, u64 length, double* __restrict__ parts, int packed) {
    double sum = 0.0;
    u64 step = (u64)gridDim.x * 1024;
    if (packed) {
        u64 i = (u64)blockIdx.x * 1024 + threadIdx.x * 4;
#pragma unroll 4
        for (; i + 4 <= length; i += step) {
            PackOf<float> pack = load_pack(x + i);
#pragma unroll
            for (int j = 0; j < 4; j++) sum += (double)pack.at[j] * (double)pack.at[j];
        }
        for (u64 end = i + 4; i < length && i < end; i++) sum += (double)x[i] * (double)x[i];
    } else {
        for (u64 i = (u64)blockIdx.x * 1024 + threadIdx.x; i < length; i += step)
            for (u64 j = i; j < i + 1024 && j < length; j += 256) sum += (double)x[j] * (double)x[j];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
sum_squares_total(const double* __restrict__ parts, int count, double* __restrict__ out) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += 256) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

// `max_norm / (norm + 1e-6)`, at most 1; no number if the norm is not finite.
extern "C" __global__ void clip_factor(const double* sum_squares, float max_norm, float* factor, float* norm) {
    double length = sqrt(*sum_squares);
    bool finite = length <= 3.4028234663852886e38;
    double wanted = (double)max_norm / (length + 1e-6);
    *norm = (float)length;
    *factor = finite ? (float)(wanted < 1.0 ? wanted : 1.0) : __int_as_float(0x7fc00000);
}
