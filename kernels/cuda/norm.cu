// Root mean square, layer and L2 normalisation over the last axis, and their gradients.
//
// A row belongs to a group of `lanes` threads: a power of two up to 32, or the whole block. Each thread keeps its part of
// the row in registers (at most HELD packs), so every operand is read from memory once. V is the numbers per access:
// Pack::N, or 1 for rows that are not made of aligned packs or are too wide to be held; those are read again instead.
// Gradients of weights are summed per block over its rows and written to `partials`; `add_partials` sums those in a fixed
// order.

constexpr int HELD = 32 / Pack::N;
// 16-bit rows of up to 512 * 32 numbers are held, f32 rows of up to 256 * 32.
constexpr int THREADS = sizeof(T) == 4 ? 256 : 512;

template <int V> __device__ __forceinline__ void read_floats(const float* from, float (&to)[V]) {
    if constexpr (V == 1) {
        to[0] = from[0];
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            PackOf<float> four = load_pack(from + i);
#pragma unroll
            for (int j = 0; j < 4; j++) to[i + j] = four.at[j];
        }
    }
}

template <int V> __device__ __forceinline__ void write_floats(float* to, const float (&from)[V]) {
    if constexpr (V == 1) {
        to[0] = from[0];
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            PackOf<float> four;
#pragma unroll
            for (int j = 0; j < 4; j++) four.at[j] = from[i + j];
            store_pack(to + i, four);
        }
    }
}

template <int V> __device__ __forceinline__ void write_rounded(T* to, const float (&from)[V]) {
    if constexpr (V == 1) {
        to[0] = from_float(from[0]);
    } else {
        Pack pack;
#pragma unroll
        for (int i = 0; i < V; i++) pack.at[i] = from_float(from[i]);
        store_pack(to, pack);
    }
}

// What the normalised numbers are multiplied by.
template <int V>
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

// Calls `work(part, column)` for each of the thread's stretches of V columns.
template <int V, typename Work> __device__ __forceinline__ void for_each_part(int lane, int lanes, int width, Work work) {
    if constexpr (V > 1) {
#pragma unroll
        for (int part = 0; part < HELD; part++) {
            int column = (lane + part * lanes) * V;
            if (column < width) work(part, column);
        }
    } else {
        for (int column = lane; column < width; column += lanes) work(0, column);
    }
}

// A thread's part of a row.
template <int V> struct Part {
    Pack held[V > 1 ? HELD : 1];
    const T* row;

    __device__ __forceinline__ void load(const T* from, int lane, int lanes, int width) {
        row = from;
        if constexpr (V > 1) {
            for_each_part<V>(lane, lanes, width, [&](int part, int column) { held[part] = load_pack(row + column); });
        }
    }
    __device__ __forceinline__ void get(int part, int column, float (&to)[V]) const {
        if constexpr (V == 1) {
            to[0] = to_float(row[column]);
        } else {
#pragma unroll
            for (int i = 0; i < V; i++) to[i] = to_float(held[part].at[i]);
        }
    }
};

// Where the thread stands: its group within the block and its place within the group.
struct Place {
    int lanes, lane, group, groups;
    __device__ __forceinline__ Place(int lanes_of_row) : lanes(lanes_of_row) {
        groups = lanes > 32 ? 1 : blockDim.x / lanes;
        group = lanes > 32 ? 0 : threadIdx.x / lanes;
        lane = lanes > 32 ? threadIdx.x : threadIdx.x & (lanes - 1);
    }
};

// Over the threads of a group. All threads of the block call it.
__device__ __forceinline__ float group_sum(float x, int lanes, float* shared) {
    if (lanes > 32) return block_sum(x, shared);
    for (int offset = lanes >> 1; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// out = (x - mean) / sqrt(sum((x - mean)^2) * inverse_divisor + eps) * factor + bias, where the mean is 0 unless CENTRE.
// With ADD x is the sum of two operands, rounded to T and written to `sum_out`. Rows of `out` are `out_stride` apart.
template <int V, bool CENTRE, bool ADD>
__device__ __forceinline__ void normalise(const T* x, const T* other, int rows, int width, int lanes, const float* weight,
                                          float offset, const float* bias, float inverse_divisor, float eps, T* sum_out,
                                          T* out, int out_stride) {
    __shared__ float shared[32];
    Place place(lanes);
    long long row = (long long)blockIdx.x * place.groups + place.group;
    // Threads without a row take part in the group's sums.
    int columns = row < rows ? width : 0;
    long long start = row * width;

    Part<V> numbers;
    numbers.load(x + start, place.lane, lanes, columns);
    if constexpr (ADD) {
        Part<V> others;
        others.load(other + start, place.lane, lanes, columns);
        for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
            float a[V], b[V];
            numbers.get(part, column, a);
            others.get(part, column, b);
#pragma unroll
            for (int i = 0; i < V; i++) a[i] += b[i];
            write_rounded<V>(sum_out + start + column, a);
            if constexpr (V > 1) {
#pragma unroll
                for (int i = 0; i < V; i++) numbers.held[part].at[i] = from_float(a[i]);
            }
        });
        // Where nothing is held the sum is read again, by the thread that wrote it.
        numbers.row = sum_out + start;
    }

    float mean = 0.0f;
    if constexpr (CENTRE) {
        float sum = 0.0f;
        for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
            float x[V];
            numbers.get(part, column, x);
#pragma unroll
            for (int i = 0; i < V; i++) sum += x[i];
        });
        mean = group_sum(sum, lanes, shared) / width;
    }
    float squares = 0.0f;
    for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
        float x[V];
        numbers.get(part, column, x);
#pragma unroll
        for (int i = 0; i < V; i++) squares += (x[i] - mean) * (x[i] - mean);
    });
    float scale = rsqrtf(group_sum(squares, lanes, shared) * inverse_divisor + eps);
    T* to = out + row * out_stride;
    for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
        float x[V], factor[V];
        numbers.get(part, column, x);
        read_factor<V>(weight, offset, column, factor);
#pragma unroll
        for (int i = 0; i < V; i++) x[i] = (x[i] - mean) * scale * factor[i];
        if constexpr (CENTRE) {
            if (bias) {
                float add[V];
                read_floats<V>(bias + column, add);
#pragma unroll
                for (int i = 0; i < V; i++) x[i] += add[i];
            }
        }
        write_rounded<V>(to + column, x);
    });
}

// Sums a block's gradients of the weights over its groups and writes them to `partial`. `shared` holds `width` floats.
template <int V>
__device__ __forceinline__ void write_partial(float (&sums)[V > 1 ? HELD : 1][V], const Place& place, int width,
                                              float* shared, float* partial) {
    if (place.lanes > 32) {
        for_each_part<V>(place.lane, place.lanes, width,
                         [&](int part, int column) { write_floats<V>(partial + column, sums[part]); });
        return;
    }
    for (int offset = place.lanes; offset < 32; offset <<= 1) {
#pragma unroll
        for (int part = 0; part < HELD; part++) {
#pragma unroll
            for (int i = 0; i < V; i++) sums[part][i] += __shfl_xor_sync(0xffffffffu, sums[part][i], offset);
        }
    }
    int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    bool first_of_warp = (threadIdx.x & 31) < place.lanes;
    for (int turn = 0; turn < warps; turn++) {
        if (warp == turn && first_of_warp) {
            for_each_part<V>(place.lane, place.lanes, width, [&](int part, int column) {
                float sum[V];
                if (turn > 0) {
                    read_floats<V>(shared + column, sum);
#pragma unroll
                    for (int i = 0; i < V; i++) sums[part][i] += sum[i];
                }
                write_floats<V>(shared + column, sums[part]);
            });
        }
        __syncthreads();
    }
    for (int column = threadIdx.x; column < width; column += blockDim.x) partial[column] = shared[column];
    __syncthreads();
}

// Gradients of `normalise`. With h the normalised row, r its scale and g = dy * factor:
//   dx = r * g - (x - mean) * r^3 * inverse_divisor * sum(g * (x - mean)) [- r * mean(g) if CENTRE]
//   dweight = sum over rows of dy * h, dbias = sum over rows of dy.
// `dx` may be `dy` itself. Partials are [blocks, width], or [blocks, 2, width] if CENTRE.
template <int V, bool CENTRE, bool WEIGHT>
__device__ __forceinline__ void normalise_grad(const T* x, const T* dy, int rows, int width, int lanes,
                                               const float* weight, float offset, float inverse_divisor, float eps,
                                               T* dx, int accumulate, float* partials) {
    constexpr int PARTS = V > 1 ? HELD : 1;
    __shared__ float shared[32];
    Place place(lanes);
    float dweight[PARTS][V], dbias[PARTS][V];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int i = 0; i < V; i++) dweight[part][i] = dbias[part][i] = 0.0f;
    }
    float* partial = WEIGHT ? partials + (long long)blockIdx.x * width * (CENTRE ? 2 : 1) : nullptr;

    long long step = (long long)gridDim.x * place.groups;
    for (long long base = (long long)blockIdx.x * place.groups; base < rows; base += step) {
        long long row = base + place.group;
        int columns = row < rows ? width : 0;
        long long start = row * width;
        Part<V> numbers, gradients, old;
        numbers.load(x + start, place.lane, lanes, columns);
        gradients.load(dy + start, place.lane, lanes, columns);
        // Sums of weights and biases leave no registers for what is added to.
        constexpr bool EARLY = !(CENTRE && WEIGHT);
        if (accumulate && EARLY) old.load(dx + start, place.lane, lanes, columns);

        float mean = 0.0f, squares = 0.0f, along = 0.0f, total = 0.0f;
        if constexpr (CENTRE) {
            float sum = 0.0f;
            for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
                float x[V];
                numbers.get(part, column, x);
#pragma unroll
                for (int i = 0; i < V; i++) sum += x[i];
            });
            mean = group_sum(sum, lanes, shared) / width;
        }
        for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
            float x[V], g[V], factor[V];
            numbers.get(part, column, x);
            gradients.get(part, column, g);
            read_factor<V>(weight, offset, column, factor);
#pragma unroll
            for (int i = 0; i < V; i++) {
                float centred = x[i] - mean, scaled = g[i] * factor[i];
                squares += centred * centred;
                along += scaled * centred;
                total += scaled;
            }
        });
        float scale = rsqrtf(group_sum(squares, lanes, shared) * inverse_divisor + eps);
        float back = group_sum(along, lanes, shared) * scale * scale * scale * inverse_divisor;
        float shift = CENTRE ? group_sum(total, lanes, shared) / width * scale : 0.0f;

        for_each_part<V>(place.lane, lanes, columns, [&](int part, int column) {
            float x[V], g[V], factor[V], value[V];
            numbers.get(part, column, x);
            gradients.get(part, column, g);
            read_factor<V>(weight, offset, column, factor);
#pragma unroll
            for (int i = 0; i < V; i++) {
                value[i] = g[i] * factor[i] * scale - (x[i] - mean) * back - shift;
                if constexpr (WEIGHT && V > 1) {
                    dweight[part][i] += g[i] * ((x[i] - mean) * scale);
                    dbias[part][i] += g[i];
                }
            }
            if (accumulate) {
                float before[V];
                if constexpr (V > 1 && !EARLY) old.held[part] = load_pack(dx + start + column);
                if constexpr (V == 1) old.row = dx + start;
                old.get(part, column, before);
#pragma unroll
                for (int i = 0; i < V; i++) value[i] += before[i];
            }
            if constexpr (WEIGHT && V == 1) {
                // One row a block at a time: the column is this thread's alone, from its first row on.
                float earlier = base == blockIdx.x ? 0.0f : partial[column];
                partial[column] = earlier + g[0] * ((x[0] - mean) * scale);
                if constexpr (CENTRE) {
                    float earlier = base == blockIdx.x ? 0.0f : partial[width + column];
                    partial[width + column] = earlier + g[0];
                }
            }
            write_rounded<V>(dx + start + column, value);
        });
    }
    if constexpr (WEIGHT && V > 1) {
        __shared__ __align__(16) float sums[32 * 32];
        write_partial<V>(dweight, place, width, sums, partial);
        if constexpr (CENTRE) write_partial<V>(dbias, place, width, sums, partial + width);
    }
}

// rms_norm, l2_norm (inverse_divisor 1), and `_any` of each for rows that are not made of packs.
#define RMS_NORM(NAME, V)                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* x, int rows, int width, int lanes, const float* __restrict__ weight, float offset,               \
             float inverse_divisor, float eps, T* out, int out_stride) {                                               \
        normalise<V, false, false>(x, nullptr, rows, width, lanes, weight, offset, nullptr, inverse_divisor, eps,      \
                                   nullptr, out, out_stride);                                                          \
    }
RMS_NORM(rms_norm, Pack::N)
RMS_NORM(rms_norm_any, 1)

#define ADD_RMS_NORM(NAME, V)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* a, const T* b, int rows, int width, int lanes, const float* __restrict__ weight, float offset,   \
             float inverse_divisor, float eps, T* sum_out, T* out, int out_stride) {                                   \
        normalise<V, false, true>(a, b, rows, width, lanes, weight, offset, nullptr, inverse_divisor, eps, sum_out,    \
                                  out, out_stride);                                                                    \
    }
ADD_RMS_NORM(add_rms_norm, Pack::N)
ADD_RMS_NORM(add_rms_norm_any, 1)

#define LAYER_NORM(NAME, V)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* x, int rows, int width, int lanes, const float* __restrict__ weight,                             \
             const float* __restrict__ bias, float inverse_divisor, float eps, T* out) {                               \
        normalise<V, true, false>(x, nullptr, rows, width, lanes, weight, 0.0f, bias, inverse_divisor, eps, nullptr,   \
                                  out, width);                                                                         \
    }
LAYER_NORM(layer_norm, Pack::N)
LAYER_NORM(layer_norm_any, 1)

// CENTRE false: gradients of rms_norm and l2_norm; true: of layer_norm. `_weight` fills `partials`.
#define NORM_GRAD(NAME, V, CENTRE, WEIGHT)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const T* x, const T* dy, int rows, int width, int lanes, const float* __restrict__ weight, float offset,  \
             float inverse_divisor, float eps, T* dx, int accumulate, float* partials) {                               \
        normalise_grad<V, CENTRE, WEIGHT>(x, dy, rows, width, lanes, weight, offset, inverse_divisor, eps, dx,         \
                                          accumulate, partials);                                                       \
    }
NORM_GRAD(rms_norm_grad, Pack::N, false, false)
NORM_GRAD(rms_norm_grad_any, 1, false, false)
NORM_GRAD(rms_norm_grad_weight, Pack::N, false, true)
NORM_GRAD(rms_norm_grad_weight_any, 1, false, true)
NORM_GRAD(layer_norm_grad, Pack::N, true, false)
NORM_GRAD(layer_norm_grad_any, 1, true, false)
NORM_GRAD(layer_norm_grad_weight, Pack::N, true, true)
NORM_GRAD(layer_norm_grad_weight_any, 1, true, true)

// out[column] += sum over `count` rows of partials[row * stride + column]. A block of 1024 threads sums 32 columns.
extern "C" __global__ void __launch_bounds__(1024)
    add_partials(const float* __restrict__ partials, int count, int stride, int width, float* out) {
    __shared__ float sums[32][33];
    int column = blockIdx.x * 32 + (threadIdx.x & 31), first = threadIdx.x >> 5;
    float sum = 0.0f;
    if (column < width) {
#pragma unroll 4
        for (int row = first; row < count; row += 32) sum += partials[(long long)row * stride + column];
    }
    sums[first][threadIdx.x & 31] = sum;
    __syncthreads();
    // A warp sums the 32 numbers of a column.
    float total = warp_sum(sums[threadIdx.x & 31][first]);
    column = blockIdx.x * 32 + first;
    if ((threadIdx.x & 31) == 0 && column < width) out[column] += total;
}
