// Weights that carry the second matrices of low-rank adapters in columns of their own, so that one product makes both.

typedef unsigned long long u64;

// out[row * stride + column + j] = scale * b[row * r + j] for n rows of r columns. As the wrapper writes it.
struct Adapter {
    const float* b;
    T* out;
    unsigned n, r, stride, column;
    float scale;
    // Rows of both begin at, and are made of, whole packs of T.
    unsigned packed;
};

// blockIdx.y is the adapter; a thread writes one pack, or one number.
extern "C" __global__ void __launch_bounds__(256) refresh_adapters(const Adapter* __restrict__ adapters) {
    Adapter adapter = adapters[blockIdx.y];
    unsigned unit = adapter.packed ? Pack::N : 1, units = adapter.r / unit;
    unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    if (units == 0 || index >= adapter.n * units) return;
    unsigned row = index / units, j = index % units * unit;
    const float* from = adapter.b + (u64)row * adapter.r + j;
    T* to = adapter.out + (u64)row * adapter.stride + adapter.column + j;
    if (!adapter.packed) {
        *to = from_float(adapter.scale * *from);
        return;
    }
    Pack pack;
#pragma unroll
    for (int i = 0; i < Pack::N; i += 4) {
        PackOf<float> four = load_pack(from + i);
#pragma unroll
        for (int k = 0; k < 4; k++) pack.at[i + k] = from_float(adapter.scale * four.at[k]);
    }
    store_pack(to, pack);
}

// out[row * stride + column] = w[row * width + column], 0 from column `width` on. Sizes are in units.
template <typename U>
__device__ __forceinline__ void widen(const U* w, u64 rows, unsigned width, unsigned stride, U* out, U zero) {
    u64 index = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 row = index / stride;
    unsigned column = (unsigned)(index - row * stride);
    if (row < rows) out[index] = column < width ? w[row * width + column] : zero;
}

extern "C" __global__ void __launch_bounds__(256)
    augment(const uint4* __restrict__ w, u64 rows, unsigned width, unsigned stride, uint4* __restrict__ out) {
    widen(w, rows, width, stride, out, make_uint4(0, 0, 0, 0));
}

extern "C" __global__ void __launch_bounds__(256)
    augment_any(const T* __restrict__ w, u64 rows, unsigned width, unsigned stride, T* __restrict__ out) {
    widen(w, rows, width, stride, out, from_float(0.0f));
}
