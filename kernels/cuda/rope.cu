// Rotary position embedding, alone and in one pass with the per-head root mean square norm before it.
//
// A head is `head_dim` numbers of which the first `dims` turn in pairs: (i, i + dims / 2), or (2i, 2i + 1) if
// interleaved. The packed kernels give a thread two packs of a head such that no pair is divided: V numbers from the
// first half and the V that belong to them from the second.

constexpr int V = Pack::N;

// cos and sin [rows, half] of position * inverse frequency. The angle is rounded to f32, as the reference
// implementations do; its cosine and sine are computed in f64, exact for any size of the angle.
extern "C" __global__ void __launch_bounds__(256)
    rope_tables(const unsigned* __restrict__ positions, const float* __restrict__ inverse, float attention_factor,
                long long total, int half, float* cos_out, float* sin_out) {
    long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= total) return;
    float angle = __fmul_rn((float)positions[index / half], inverse[index % half]);
    double s, c;
    sincos((double)angle, &s, &c);
    cos_out[index] = (float)c * attention_factor;
    sin_out[index] = (float)s * attention_factor;
}

// Two packs of a head: where they begin, and whether they turn.
struct Pair {
    int first, second;
    bool first_turns, second_turns;

    __device__ __forceinline__ Pair(int unit, int head_dim, int dims, bool interleaved) {
        if (interleaved) {
            first = unit * V;
            second = head_dim / 2 + unit * V;
            first_turns = first < dims;
            second_turns = second < dims;
        } else if (unit * V < dims / 2) {
            first = unit * V;
            second = dims / 2 + unit * V;
            first_turns = second_turns = true;
        } else {
            first = dims + unit * V - dims / 2;
            second = first + (head_dim - dims) / 2;
            first_turns = second_turns = false;
        }
    }
};

__device__ __forceinline__ void read_numbers(const T* from, float (&to)[V]) {
    Pack pack = load_pack(from);
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = to_float(pack.at[i]);
}

__device__ __forceinline__ void write_numbers(T* to, const float (&from)[V]) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < V; i++) pack.at[i] = from_float(from[i]);
    store_pack(to, pack);
}

// `count` floats, 8 or 16 bytes at a time.
template <int COUNT> __device__ __forceinline__ void read_floats(const float* from, float* to) {
    if constexpr (COUNT == 2) {
        float2 two = *reinterpret_cast<const float2*>(from);
        to[0] = two.x;
        to[1] = two.y;
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            PackOf<float> four = load_pack(from + i);
#pragma unroll
            for (int j = 0; j < 4; j++) to[i + j] = four.at[j];
        }
    }
}

// Cosines and sines of a pair of packs, of a row's `half` ones: one for each number of the first pack, or if interleaved
// one for each two numbers of the first and then of the second.
__device__ __forceinline__ void read_angles(const float* cos, const float* sin, const Pair& pair, bool interleaved,
                                            float sign, float (&c)[V], float (&s)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        c[i] = 1.0f;
        s[i] = 0.0f;
    }
    if (!interleaved) {
        if (pair.first_turns) {
            read_floats<V>(cos + pair.first, c);
            read_floats<V>(sin + pair.first, s);
        }
    } else {
        if (pair.first_turns) {
            read_floats<V / 2>(cos + pair.first / 2, c);
            read_floats<V / 2>(sin + pair.first / 2, s);
        }
        if (pair.second_turns) {
            read_floats<V / 2>(cos + pair.second / 2, c + V / 2);
            read_floats<V / 2>(sin + pair.second / 2, s + V / 2);
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) s[i] *= sign;
}

__device__ __forceinline__ void turn(float& a, float& b, float c, float s) {
    float x = a * c - b * s;
    b = b * c + a * s;
    a = x;
}

__device__ __forceinline__ void turn_pair(float (&first)[V], float (&second)[V], const float (&c)[V],
                                          const float (&s)[V], bool interleaved) {
    if (interleaved) {
#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            turn(first[2 * i], first[2 * i + 1], c[i], s[i]);
            turn(second[2 * i], second[2 * i + 1], c[V / 2 + i], s[V / 2 + i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) turn(first[i], second[i], c[i], s[i]);
    }
}

// One thread a pair of packs; `total` is rows * heads * (head_dim / 2 / V). sign is -1 for the gradient. In place if `out`
// is `x`.
extern "C" __global__ void __launch_bounds__(256)
    rope(const T* x, int total, int heads, int head_dim, int dims, const float* __restrict__ cos,
         const float* __restrict__ sin, int interleaved, float sign, T* out) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= total) return;
    int units = head_dim / 2 / V;
    int item = index / units, unit = index - item * units;
    long long row = item / heads, start = (long long)item * head_dim;
    Pair pair(unit, head_dim, dims, interleaved);
    float first[V], second[V], c[V], s[V];
    read_numbers(x + start + pair.first, first);
    read_numbers(x + start + pair.second, second);
    read_angles(cos + row * (dims / 2), sin + row * (dims / 2), pair, interleaved, sign, c, s);
    turn_pair(first, second, c, s, interleaved);
    write_numbers(out + start + pair.first, first);
    write_numbers(out + start + pair.second, second);
}

// One thread a pair of numbers, or a number that does not turn: `total` is rows * heads * (head_dim - dims / 2).
extern "C" __global__ void __launch_bounds__(256)
    rope_any(const T* x, long long total, int heads, int head_dim, int dims, const float* __restrict__ cos,
             const float* __restrict__ sin, int interleaved, float sign, T* out) {
    long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= total) return;
    int half = dims / 2, units = head_dim - half;
    long long item = index / units, row = item / heads, start = item * head_dim;
    int unit = (int)(index - item * units);
    if (unit >= half) {
        out[start + half + unit] = x[start + half + unit];
        return;
    }
    long long first = start + (interleaved ? 2 * unit : unit), second = first + (interleaved ? 1 : half);
    float a = to_float(x[first]), b = to_float(x[second]);
    turn(a, b, cos[row * half + unit], sin[row * half + unit] * sign);
    out[first] = from_float(a);
    out[second] = from_float(b);
}

__device__ __forceinline__ float group_sum(float x, int lanes) {
    for (int offset = lanes >> 1; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

__device__ __forceinline__ void read_factor(const float* weight, float offset, int column, float (&factor)[V]) {
    if (weight) {
        read_floats<V>(weight + column, factor);
#pragma unroll
        for (int i = 0; i < V; i++) factor[i] += offset;
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) factor[i] = 1.0f;
    }
}

// Up to HEADS heads of one row, which share its angles, for the threads of a group. A row's heads make `sets` of HEADS, the
// last maybe of fewer.
template <int HEADS> struct Heads {
    long long row, start;
    bool busy[HEADS];

    __device__ __forceinline__ Heads(long long set, long long total, int sets, int heads, int head_dim, bool active) {
        row = set / sets;
        int head = (int)(set - row * sets) * HEADS;
        start = (row * heads + head) * head_dim;
#pragma unroll
        for (int i = 0; i < HEADS; i++) busy[i] = active && set < total && head + i < heads;
    }
};

__device__ __forceinline__ void unpack(const Pack& pack, float (&to)[V]) {
#pragma unroll
    for (int i = 0; i < V; i++) to[i] = to_float(pack.at[i]);
}

// The norm of each head, then its rotation. `total` is rows * sets of two heads; a set belongs to `lanes` threads, a power of
// two up to 32 that is at least a head's pairs of packs. All loads of a thread are made before the first is waited for. In
// place if `out` is `x`.
extern "C" __global__ void __launch_bounds__(256, 3)
    norm_rope(const T* x, int total, int sets, int heads, int head_dim, int lanes, const float* __restrict__ weight,
              float offset, float eps, int dims, const float* __restrict__ cos, const float* __restrict__ sin,
              int interleaved, T* out) {
    constexpr int HEADS = 2;
    int unit = threadIdx.x & (lanes - 1), groups = blockDim.x / lanes;
    Pair pair(unit, head_dim, dims, interleaved);
    Heads<HEADS> at((long long)blockIdx.x * groups + threadIdx.x / lanes, total, sets, heads, head_dim,
                    unit < head_dim / 2 / V);
    Pack first_x[HEADS], second_x[HEADS];
    float c[V], s[V], scale[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (!at.busy[h]) continue;
        first_x[h] = load_pack(x + at.start + h * head_dim + pair.first);
        second_x[h] = load_pack(x + at.start + h * head_dim + pair.second);
    }
    if (at.busy[0])
        read_angles(cos + at.row * (dims / 2), sin + at.row * (dims / 2), pair, interleaved, 1.0f, c, s);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float squares = 0.0f;
        if (at.busy[h]) {
            float first[V], second[V];
            unpack(first_x[h], first);
            unpack(second_x[h], second);
#pragma unroll
            for (int i = 0; i < V; i++) squares += first[i] * first[i] + second[i] * second[i];
        }
        scale[h] = rsqrtf(group_sum(squares, lanes) / head_dim + eps);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (!at.busy[h]) continue;
        // Weights come from a cache; kept in registers they would leave room for too few threads.
        float first[V], second[V], factor[V];
        unpack(first_x[h], first);
        unpack(second_x[h], second);
        read_factor(weight, offset, pair.first, factor);
#pragma unroll
        for (int i = 0; i < V; i++) first[i] *= scale[h] * factor[i];
        read_factor(weight, offset, pair.second, factor);
#pragma unroll
        for (int i = 0; i < V; i++) second[i] *= scale[h] * factor[i];
        turn_pair(first, second, c, s, interleaved);
        write_numbers(out + at.start + h * head_dim + pair.first, first);
        write_numbers(out + at.start + h * head_dim + pair.second, second);
    }
}

// Gradient of norm_rope without that of the weight: `dy` turned back, then the gradient of the norm. `dx` may be `dy`
// itself. Threads as in norm_rope.
extern "C" __global__ void __launch_bounds__(256, 2)
    norm_rope_grad(const T* x, const T* dy, int total, int sets, int heads, int head_dim, int lanes,
                   const float* __restrict__ weight, float offset, float eps, int dims, const float* __restrict__ cos,
                   const float* __restrict__ sin, int interleaved, T* dx) {
    constexpr int HEADS = 2;
    int unit = threadIdx.x & (lanes - 1), groups = blockDim.x / lanes;
    Pair pair(unit, head_dim, dims, interleaved);
    Heads<HEADS> at((long long)blockIdx.x * groups + threadIdx.x / lanes, total, sets, heads, head_dim,
                    unit < head_dim / 2 / V);
    Pack first_x[HEADS], second_x[HEADS], first_dy[HEADS], second_dy[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (!at.busy[h]) continue;
        first_x[h] = load_pack(x + at.start + h * head_dim + pair.first);
        second_x[h] = load_pack(x + at.start + h * head_dim + pair.second);
        first_dy[h] = load_pack(dy + at.start + h * head_dim + pair.first);
        second_dy[h] = load_pack(dy + at.start + h * head_dim + pair.second);
    }
    float c[V], s[V];
    if (at.busy[0])
        read_angles(cos + at.row * (dims / 2), sin + at.row * (dims / 2), pair, interleaved, -1.0f, c, s);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float first[V], second[V], squares = 0.0f, along = 0.0f;
        if (at.busy[h]) {
            unpack(first_dy[h], first);
            unpack(second_dy[h], second);
            turn_pair(first, second, c, s, interleaved);
            float factor[V];
            read_factor(weight, offset, pair.first, factor);
#pragma unroll
            for (int i = 0; i < V; i++) first[i] *= factor[i];
            read_factor(weight, offset, pair.second, factor);
#pragma unroll
            for (int i = 0; i < V; i++) second[i] *= factor[i];
#pragma unroll
            for (int i = 0; i < V; i++) {
                float a = to_float(first_x[h].at[i]), b = to_float(second_x[h].at[i]);
                squares += a * a + b * b;
                along += first[i] * a + second[i] * b;
            }
        }
        float scale = rsqrtf(group_sum(squares, lanes) / head_dim + eps);
        float back = group_sum(along, lanes) * scale * scale * scale / head_dim;
        if (at.busy[h]) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                first[i] = first[i] * scale - to_float(first_x[h].at[i]) * back;
                second[i] = second[i] * scale - to_float(second_x[h].at[i]) * back;
            }
            write_numbers(dx + at.start + h * head_dim + pair.first, first);
            write_numbers(dx + at.start + h * head_dim + pair.second, second);
        }
    }
}

// The same over `items` = rows * heads single heads, and into `partials` [blocks, head_dim] each block's sum of the weight's
// gradient.
extern "C" __global__ void __launch_bounds__(256, 3)
    norm_rope_grad_weight(const T* x, const T* dy, int items, int heads, int head_dim, int lanes,
                          const float* __restrict__ weight, float offset, float eps, int dims,
                          const float* __restrict__ cos, const float* __restrict__ sin, int interleaved, T* dx,
                          float* partials) {
    int unit = threadIdx.x & (lanes - 1), groups = blockDim.x / lanes;
    bool active = unit < head_dim / 2 / V;
    Pair pair(unit, head_dim, dims, interleaved);
    float first_factor[V], second_factor[V], first_sum[V], second_sum[V];
#pragma unroll
    for (int i = 0; i < V; i++) first_sum[i] = second_sum[i] = 0.0f;
    if (active) {
        read_factor(weight, offset, pair.first, first_factor);
        read_factor(weight, offset, pair.second, second_factor);
    }
    for (long long base = (long long)blockIdx.x * groups; base < items; base += (long long)gridDim.x * groups) {
        int item = (int)base + threadIdx.x / lanes;
        bool busy = active && base + threadIdx.x / lanes < items;
        long long start = (long long)item * head_dim, row = item / heads;
        Pack first_x, second_x;
        float first[V], second[V], squares = 0.0f, along = 0.0f;
        if (busy) {
            first_x = load_pack(x + start + pair.first);
            second_x = load_pack(x + start + pair.second);
            read_numbers(dy + start + pair.first, first);
            read_numbers(dy + start + pair.second, second);
            float c[V], s[V];
            read_angles(cos + row * (dims / 2), sin + row * (dims / 2), pair, interleaved, -1.0f, c, s);
            turn_pair(first, second, c, s, interleaved);
#pragma unroll
            for (int i = 0; i < V; i++) {
                float a = to_float(first_x.at[i]), b = to_float(second_x.at[i]);
                squares += a * a + b * b;
                along += first[i] * first_factor[i] * a + second[i] * second_factor[i] * b;
            }
        }
        float scale = rsqrtf(group_sum(squares, lanes) / head_dim + eps);
        float back = group_sum(along, lanes) * scale * scale * scale / head_dim;
        if (busy) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                float a = to_float(first_x.at[i]), b = to_float(second_x.at[i]);
                first_sum[i] += first[i] * (a * scale);
                second_sum[i] += second[i] * (b * scale);
                first[i] = first[i] * first_factor[i] * scale - a * back;
                second[i] = second[i] * second_factor[i] * scale - b * back;
            }
            write_numbers(dx + start + pair.first, first);
            write_numbers(dx + start + pair.second, second);
        }
    }
    // Over the groups of each warp, then over the warps in their order.
    __shared__ float sums[32 * 2 * V];
    for (int offset = lanes; offset < 32; offset <<= 1) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            first_sum[i] += __shfl_xor_sync(0xffffffffu, first_sum[i], offset);
            second_sum[i] += __shfl_xor_sync(0xffffffffu, second_sum[i], offset);
        }
    }
    int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int next = 0; next < warps; next++) {
        if (warp == next && active && (threadIdx.x & 31) < lanes) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                sums[pair.first + i] = first_sum[i] + (next > 0 ? sums[pair.first + i] : 0.0f);
                sums[pair.second + i] = second_sum[i] + (next > 0 ? sums[pair.second + i] : 0.0f);
            }
        }
        __syncthreads();
    }
    for (int column = threadIdx.x; column < head_dim; column += blockDim.x)
        partials[(long long)blockIdx.x * head_dim + column] = sums[column];
}
