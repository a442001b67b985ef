// Products of few rows with matrices, as in decoding: out[rows, n] = x[rows, k] w[n, k]^T for up to 16 rows, bound by
// reading the weights once. Up to four matrices share x. Behind `tensor_core.cuh`.
//
// The kernels are links of a chain of dependent launches. Until `griddepcontrol.wait` a kernel reads parameters only, and
// it writes nothing, so it may start while its predecessors still run: it fills its shared memory with weights meanwhile,
// and what follows the wait is short.
//
// `few_rows_8` and `few_rows_16` (16-bit types, rows of whole 16-byte packs): a block owns a range of weight rows and takes
// them eight at a time (a tile). Its eight warps divide k, in steps of 32 numbers. In a step lane (g, t) = (lane / 4,
// lane % 4) owns 8 consecutive numbers of weight row g, which it copies to a ring of its own in shared memory and reads
// back itself, so that the ring needs no barrier. Two products on the tensor cores multiply them with the same 8 columns of
// x, the first four and the last four: which of a product's summands stands where does not matter as long as both operands
// agree. Tiles are summed over the warps in a fixed order. A row's result does not depend on the other rows, nor on their
// number.
//
// `few_rows_plain_*`: any type and size; a warp for each weight row.

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int MOST_ROWS = 16;

// What a launch computes; see FewRows in decode.rs.
struct Work {
    const T* x;
    int rows, k;
    const float* norm_weight;
    float norm_offset, norm_eps;
    bool normalise;
    const T* weight[4];
    const T* bias[4];
    void* out[4];
    int n[4];
    // Bit i: out[i] is f32.
    int wide;
    const T* residual;
    // Of the gated unit of matrices 0 and 1, or -1.
    int activation;
};

#define WORK_PARAMETERS                                                                                                \
    const T *x, int rows, int k, int normalise, const float *norm_weight, float norm_offset, float norm_eps,          \
        const T *w0, const T *w1, const T *w2, const T *w3, const T *b0, const T *b1, const T *b2, const T *b3,       \
        void *o0, void *o1, void *o2, void *o3, int n0, int n1, int n2, int n3, int wide, const T *residual,          \
        int activation
#define WORK                                                                                                           \
    Work {                                                                                                             \
        x, rows, k, norm_weight, norm_offset, norm_eps, normalise != 0, {w0, w1, w2, w3}, {b0, b1, b2, b3},            \
            {o0, o1, o2, o3}, {n0, n1, n2, n3}, wide, residual, activation                                             \
    }

// Waits until all earlier work of the chain has ended and its writes are seen.
__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel start; it waits as we do.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename P> __device__ __forceinline__ P pick(const P (&from)[4], int index) {
    return index == 0 ? from[0] : index == 1 ? from[1] : index == 2 ? from[2] : from[3];
}

// A row of one of the matrices.
struct Place {
    int matrix, row;
};

// Row `index` of all matrices one below the other.
__device__ __forceinline__ Place place_of(const Work& work, int index) {
    Place place{0, index};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        if (place.matrix == i && place.row >= work.n[i]) {
            place.row -= work.n[i];
            place.matrix = i + 1;
        }
    }
    return place;
}

// The units of work: rows of all matrices, or pairs of a gate's and its partner's row.
__device__ __forceinline__ int unit_count(const Work& work) {
    return work.activation >= 0 ? work.n[0] : work.n[0] + work.n[1] + work.n[2] + work.n[3];
}

// As `Activation` in decode.rs numbers them.
__device__ float activate(int activation, float x) {
    switch (activation) {
    case 0: return x / (1.0f + expf(-x));
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 2: return x / (1.0f + expf(-1.595769f * x * fmaf(0.044715f, x * x, 1.0f)));
    case 3: return x < 0.0f ? 0.0f : x;
    case 4: return 1.0f / (1.0f + expf(-x));
    case 5: return tanhf(x);
    case 6: return expf(x);
    case 7: return x * x;
    case 8: return 1.0f / sqrtf(x);
    case 9: return sqrtf(x);
    case 10: return -x;
    case 11: return logf(x);
    case 12: return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)));
    default: {
        float r = x < 0.0f ? 0.0f : x;
        return r * r;
    }
    }
}

// One number of the result, with all that is added to it. It reads its addends early, long before `finish`.
struct Result {
    Place place;
    int row;
    float bias, partner_bias, residual;

    __device__ __forceinline__ Result(const Work& work, int row, int unit) : row(row), bias(0), partner_bias(0), residual(0) {
        place = work.activation >= 0 ? Place{0, unit} : place_of(work, unit);
        const T* of = pick(work.bias, place.matrix);
        if (of) bias = to_float(of[place.row]);
        if (work.activation >= 0 && work.bias[1]) partner_bias = to_float(work.bias[1][place.row]);
        if (work.residual) residual = to_float(work.residual[(long long)row * work.n[0] + place.row]);
    }

    // `partner` is the second product of a gated unit.
    __device__ __forceinline__ void finish(const Work& work, float product, float partner) const {
        float value = product + bias;
        if (work.activation >= 0) {
            float gate = to_float(from_float(value)), up = to_float(from_float(partner + partner_bias));
            value = activate(work.activation, gate) * up;
        }
        value += residual;
        long long at = (long long)row * pick(work.n, place.matrix) + place.row;
        void* out = pick(work.out, place.matrix);
        if (work.wide >> place.matrix & 1) {
            static_cast<float*>(out)[at] = value;
        } else {
            static_cast<T*>(out)[at] = from_float(value);
        }
    }
};

#if ELEMENT != 0

// Steps copied, waited for and multiplied together.
constexpr int CHUNK = 4;
// Bytes of the ring that a chunk takes, and of one step of it.
constexpr int STEP_BYTES = THREADS * 16;
constexpr int CHUNK_BYTES = CHUNK * STEP_BYTES;
// Numbers of the result that a block finishes at a time, one a thread.
constexpr int BATCH = THREADS;

// `bytes` (16 or 0) to shared memory and zeros up to 16; asks the second-level cache for the whole line.
__device__ __forceinline__ void copy_weights(unsigned to, const T* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Waits until at most `depth` - 1 of the thread's groups of copies are unfinished; a depth is 3, 5 or 6.
__device__ __forceinline__ void wait_for_copies(int depth) {
    if (depth == 6) {
        copy_async_wait<5>();
    } else if (depth == 5) {
        copy_async_wait<4>();
    } else {
        copy_async_wait<2>();
    }
}

__device__ __forceinline__ uint4 read_shared(unsigned address) {
    uint4 value;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(address)
                 : "memory");
    return value;
}
__device__ __forceinline__ void write_shared(unsigned address, uint4 value) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}

// The part of k that belongs to a warp, in steps of 32 numbers.
struct Slice {
    int first, last;

    __device__ __forceinline__ Slice(int k, int warp) {
        long long steps = ceil_div(k, 32);
        first = (int)(steps * warp / WARPS);
        last = (int)(steps * (warp + 1) / WARPS);
    }
    __device__ __forceinline__ int chunks() const { return ceil_div(last - first, CHUNK); }
};

// Fills the ring, chunk after chunk of tile after tile.
struct Producer {
    const Work& work;
    Slice slice;
    int begin, end, tiles, depth;
    unsigned ring;
    int tile = 0, chunk = 0, slot = 0;
    // This lane's numbers of the next chunk, and 16, or 0 where there is no such weight row.
    const T* from = nullptr;
    int bytes = 0;

    __device__ __forceinline__ Producer(const Work& work, Slice slice, int begin, int end, int tiles, int depth, unsigned ring)
        : work(work), slice(slice), begin(begin), end(end), tiles(slice.chunks() ? tiles : 0), depth(depth), ring(ring) {
        open();
    }

    // Finds this lane's weight row in the current tile.
    __device__ __forceinline__ void open() {
        bool gated = work.activation >= 0;
        int unit = begin + (gated ? tile >> 1 : tile) * 8 + (threadIdx.x >> 2 & 7);
        bytes = unit < end ? 16 : 0;
        if (unit >= end) unit = begin;
        Place place = gated ? Place{tile & 1, unit} : place_of(work, unit);
        from = pick(work.weight, place.matrix) + (long long)place.row * work.k + slice.first * 32 + (threadIdx.x & 3) * 8;
    }

    // Starts copying the next chunk; at the end of the work, an empty group of copies.
    __device__ __forceinline__ void next() {
        if (tile < tiles) {
            unsigned to = ring + slot * CHUNK_BYTES;
            int step = slice.first + chunk * CHUNK;
            if (step + CHUNK <= slice.last && (step + CHUNK) * 32 <= work.k) {
#pragma unroll
                for (int u = 0; u < CHUNK; u++) copy_weights(to + u * STEP_BYTES, from + 32 * u, bytes);
            } else {
#pragma unroll 1
                for (int u = 0; u < CHUNK && step + u < slice.last; u++) {
                    bool inside = (step + u) * 32 + (threadIdx.x & 3) * 8 < work.k;
                    copy_weights(to + u * STEP_BYTES, inside ? from + 32 * u : from, inside ? bytes : 0);
                }
            }
            from += 32 * CHUNK;
            if (++chunk == slice.chunks()) {
                chunk = 0;
                if (++tile < tiles) open();
            }
        }
        slot = slot + 1 == depth ? 0 : slot + 1;
        copy_async_commit();
    }
};

// Where x lies in shared memory: [step][row][4 packs]. In the order of `swapped`, a pack is a first operand of which one
// half multiplies the first four numbers and the other half the last four.
struct Rows {
    unsigned shared;
    int rows;

    // Of pack `index` (counted from the slice's first) of a row.
    __device__ __forceinline__ unsigned pack(const Slice& slice, int row, int index) const {
        return shared + (((slice.first + (index >> 2)) * rows + row) * 4 + (index & 3)) * 16;
    }
    static __device__ __forceinline__ uint4 swapped(uint4 pack) { return make_uint4(pack.x, pack.z, pack.y, pack.w); }
};

// Reads the warp's slice of x, zeros behind k; swapped if it is not to be normalised.
__device__ __forceinline__ void read_rows(const Work& work, const Slice& slice, const Rows& to) {
    constexpr int AHEAD = 4;
    int packs = (slice.last - slice.first) * 4, lane = threadIdx.x & 31;
    for (int start = lane; start < packs * work.rows; start += 32 * AHEAD) {
        uint4 value[AHEAD];
        unsigned address[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int index = start + 32 * i;
            if (index >= packs * work.rows) break;
            int row = work.rows == 1 ? 0 : index / packs, pack = index - row * packs;
            int column = slice.first * 32 + pack * 8;
            address[i] = to.pack(slice, row, pack);
            value[i] = column < work.k ? *reinterpret_cast<const uint4*>(work.x + (long long)row * work.k + column)
                                       : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (start + 32 * i >= packs * work.rows) break;
            write_shared(address[i], work.normalise ? value[i] : Rows::swapped(value[i]));
        }
    }
    __syncwarp();
}

// Normalises x in shared memory, in place: every warp its slice. `sums` holds [WARPS][MOST_ROWS]; `weight` is all of the
// norm's weight in shared memory, of which the warp's part is being copied by the first group.
__device__ __forceinline__ void normalise_rows(const Work& work, const Slice& slice, const Rows& x, const float* weight,
                                               float* sums, float inverse_k, int depth) {
    int packs = (slice.last - slice.first) * 4, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int row = 0; row < work.rows; row++) {
        float sum = 0.0f;
        for (int index = lane; index < packs; index += 32) {
            uint4 bits = read_shared(x.pack(slice, row, index));
            const Pack& pack = reinterpret_cast<const Pack&>(bits);
#pragma unroll
            for (int i = 0; i < Pack::N; i++) sum = fmaf(to_float(pack.at[i]), to_float(pack.at[i]), sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) sums[warp * MOST_ROWS + row] = sum;
    }
    wait_for_copies(depth);
    __syncthreads();
    for (int row = 0; row < work.rows; row++) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += sums[i * MOST_ROWS + row];
        float scale = rsqrtf(sum * inverse_k + work.norm_eps);
        for (int index = lane; index < packs; index += 32) {
            // Zeros behind k stay zeros: there is no weight for them.
            if (slice.first * 32 + index * 8 >= work.k) break;
            unsigned address = x.pack(slice, row, index);
            uint4 bits = read_shared(address);
            Pack& pack = reinterpret_cast<Pack&>(bits);
            const float* factor = weight + slice.first * 32 + index * 8;
#pragma unroll
            for (int i = 0; i < Pack::N; i++) {
                float value = to_float(pack.at[i]) * scale;
                pack.at[i] = from_float(work.norm_weight ? value * (factor[i] + work.norm_offset) : value);
            }
            write_shared(address, Rows::swapped(bits));
        }
    }
    __syncwarp();
}

// `depth` chunks (3, 5 or 6) are on their way at a time. Shared memory: the ring, BATCH numbers of each warp, sums of squares,
// the norm's weight (if any), x; see `shared_bytes` in decode.rs.
template <int HALVES> __device__ __forceinline__ void few_rows(const Work& work, int depth) {
    extern __shared__ __align__(16) unsigned char shared[];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    int steps = ceil_div(work.k, 32), rows = work.rows;
    bool gated = work.activation >= 0, weighted = work.normalise && work.norm_weight;
    float* partials = reinterpret_cast<float*>(shared + depth * CHUNK_BYTES);
    float* sums = partials + WARPS * BATCH;
    float* norm_weight = sums + WARPS * MOST_ROWS;
    Rows x{shared_address(norm_weight + (weighted ? steps * 32 : 0)), rows};

    long long units = unit_count(work);
    int begin = (int)(units * blockIdx.x / gridDim.x), end = (int)(units * (blockIdx.x + 1) / gridDim.x);
    int tiles = ceil_div(end - begin, 8) << (gated ? 1 : 0);
    Slice slice(work.k, warp);
    if (weighted) {
        for (int at = slice.first * 32 + lane * 4; at < min(slice.last * 32, work.k); at += 128) {
            copy_async(shared_address(norm_weight + at), work.norm_weight + at, true);
        }
    }
    copy_async_commit();
    unsigned ring = shared_address(shared) + threadIdx.x * 16;
    Producer producer(work, slice, begin, end, tiles, depth, ring);
    for (int i = 0; i < depth; i++) producer.next();
    // Tiles of a batch; a gate's tile and its partner's follow each other.
    int per_batch = BATCH / 8 / rows;
    if (gated) per_batch &= ~1;
    int span = 8 * rows, group = threadIdx.x / span, inner = threadIdx.x - group * span;
    float inverse_k = 1.0f / (float)work.k;
    // This lane's part of x in step 0. Lanes without a row read another's: what they multiply is never used.
    unsigned low_from = x.shared + (min(g, rows - 1) * 4 + t) * 16, high_from = x.shared + (min(g + 8, rows - 1) * 4 + t) * 16;

    launch_dependents();
    wait_for_predecessors();
    read_rows(work, slice, x);
    if (work.normalise) normalise_rows(work, slice, x, norm_weight, sums, inverse_k, depth);

    int slot = 0;
    for (int start = 0; start < tiles; start += per_batch) {
        int count = min(per_batch, tiles - start);
        int unit = begin + ((gated ? start >> 1 : start) + group) * 8 + (inner & 7);
        bool mine = group < (gated ? count >> 1 : count) && unit < end;
        Result result(work, mine ? inner >> 3 : 0, mine ? unit : begin);
        for (int tile = 0; tile < count; tile++) {
            // Apart for even and odd steps and for the halves of the packs: products do not wait for each other.
            float first[2][4] = {}, last[2][4] = {};
            // Step `step`, the u-th of its chunk.
            auto multiply = [&](int u, uint4 w, uint4 low, uint4 high) {
                if constexpr (HALVES == 1) {
                    // One operand for both products: of `first` rows 0 to 7 count, of `last` rows 8 to 15.
                    const unsigned a[4] = {low.x, low.y, low.z, low.w};
                    multiply_add(first[u & 1], a, w.x, w.y);
                    multiply_add(last[u & 1], a, w.z, w.w);
                } else {
                    const unsigned a[4] = {low.x, high.x, low.z, high.z}, b[4] = {low.y, high.y, low.w, high.w};
                    multiply_add(first[u & 1], a, w.x, w.y);
                    multiply_add(last[u & 1], b, w.z, w.w);
                }
            };
            for (int step = slice.first; step < slice.last; step += CHUNK) {
                wait_for_copies(depth);
                unsigned from = ring + slot * CHUNK_BYTES, at = step * rows * 64;
                if (step + CHUNK <= slice.last) {
                    uint4 w[CHUNK], low[CHUNK], high[CHUNK] = {};
#pragma unroll
                    for (int u = 0; u < CHUNK; u++) {
                        w[u] = read_shared(from + u * STEP_BYTES);
                        low[u] = read_shared(low_from + at + u * rows * 64);
                        if constexpr (HALVES == 2) high[u] = read_shared(high_from + at + u * rows * 64);
                    }
#pragma unroll
                    for (int u = 0; u < CHUNK; u++) multiply(u, w[u], low[u], high[u]);
                } else {
#pragma unroll
                    for (int u = 0; u < CHUNK - 1; u++) {
                        if (step + u >= slice.last) break;
                        uint4 low = read_shared(low_from + at + u * rows * 64), high = low;
                        if constexpr (HALVES == 2) high = read_shared(high_from + at + u * rows * 64);
                        multiply(u, read_shared(from + u * STEP_BYTES), low, high);
                    }
                }
                slot = slot + 1 == depth ? 0 : slot + 1;
                producer.next();
            }
            float* to = partials + warp * BATCH + tile * span + 2 * t;
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                int row = g + 8 * half, c = 2 * half, d = HALVES == 1 ? 2 : c;
                if (row >= rows) continue;
                float2 both;
                both.x = (first[0][c] + first[1][c]) + (last[0][d] + last[1][d]);
                both.y = (first[0][c + 1] + first[1][c + 1]) + (last[0][d + 1] + last[1][d + 1]);
                *reinterpret_cast<float2*>(to + row * 8) = both;
            }
        }
        __syncthreads();
        if (mine) {
            const float* from = partials + (gated ? 2 * group : group) * span + inner;
            float product = 0.0f, partner = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; i++) product += from[i * BATCH];
            if (gated) {
#pragma unroll
                for (int i = 0; i < WARPS; i++) partner += from[i * BATCH + span];
            }
            result.finish(work, product, partner);
        }
        if (start + per_batch < tiles) __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) few_rows_8(WORK_PARAMETERS, int depth) {
    few_rows<1>(WORK, depth);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) few_rows_16(WORK_PARAMETERS, int depth) {
    few_rows<2>(WORK, depth);
}

#endif

// The products of one weight row with ROWS rows of x; V numbers at a time.
template <int ROWS, int V>
__device__ __forceinline__ void dot_rows(const Work& work, const T* weight, const float* scales, float (&sum)[ROWS]) {
#pragma unroll
    for (int row = 0; row < ROWS; row++) sum[row] = 0.0f;
    for (int column = (threadIdx.x & 31) * V; column < work.k; column += 32 * V) {
        T w[V];
        float factor[V];
        if constexpr (V == 1) {
            w[0] = weight[column];
        } else {
            Pack pack = load_pack(weight + column);
#pragma unroll
            for (int i = 0; i < V; i++) w[i] = pack.at[i];
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            factor[i] = work.normalise && work.norm_weight ? work.norm_weight[column + i] + work.norm_offset : 1.0f;
        }
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (row >= work.rows) break;
            const T* from = work.x + (long long)row * work.k + column;
            T x[V];
            if constexpr (V == 1) {
                x[0] = from[0];
            } else {
                Pack pack = load_pack(from);
#pragma unroll
                for (int i = 0; i < V; i++) x[i] = pack.at[i];
            }
#pragma unroll
            for (int i = 0; i < V; i++) {
                float value = to_float(x[i]);
                if (work.normalise) value = to_float(from_float(value * scales[row] * factor[i]));
                sum[row] = fmaf(to_float(w[i]), value, sum[row]);
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) sum[row] = warp_sum(sum[row]);
}

template <int ROWS, int V> __device__ __forceinline__ void few_rows_plain(const Work& work) {
    __shared__ float scales[MOST_ROWS];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    launch_dependents();
    wait_for_predecessors();
    if (work.normalise) {
        for (int row = warp; row < work.rows; row += WARPS) {
            float sum = 0.0f;
            for (int column = lane; column < work.k; column += 32) {
                float value = to_float(work.x[(long long)row * work.k + column]);
                sum = fmaf(value, value, sum);
            }
            sum = warp_sum(sum);
            if (lane == 0) scales[row] = rsqrtf(sum * (1.0f / (float)work.k) + work.norm_eps);
        }
        __syncthreads();
    }
    bool gated = work.activation >= 0;
    int units = unit_count(work);
    for (int unit = blockIdx.x * WARPS + warp; unit < units; unit += gridDim.x * WARPS) {
        Place place = gated ? Place{0, unit} : place_of(work, unit);
        float product[ROWS], partner[ROWS];
        dot_rows<ROWS, V>(work, pick(work.weight, place.matrix) + (long long)place.row * work.k, scales, product);
        if (gated) dot_rows<ROWS, V>(work, work.weight[1] + (long long)unit * work.k, scales, partner);
        // Every lane has all sums; lane i finishes row i.
        float mine = 0.0f, mine_too = 0.0f;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            if (lane == row) {
                mine = product[row];
                if (gated) mine_too = partner[row];
            }
        }
        if (lane < work.rows) Result(work, lane, unit).finish(work, mine, mine_too);
    }
}

#define PLAIN(ROWS)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) few_rows_plain_##ROWS(WORK_PARAMETERS) {                    \
        few_rows_plain<ROWS, 1>(WORK);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) few_rows_packed_##ROWS(WORK_PARAMETERS) {                   \
        few_rows_plain<ROWS, Pack::N>(WORK);                                                                           \
    }
PLAIN(1)
PLAIN(4)
PLAIN(16)
