// Attention of new rows over a cache of pages.
//
// A page holds PAGE tokens of one sequence: for each key-value head [PAGE, dim] keys, then [PAGE, value_dim] values, so a
// head's part of a page is one stretch. Queries of all heads that share a key-value head, and of up to a few consecutive
// rows of a sequence, are the block's slots; every key is read once for all of them.
//
// The keys of a row are cut into splits whose size follows from the row's position alone, so no result depends on the
// batch. A block handles one split; within a tile of PAGE keys each of the four warps has sixteen of its own, and warps
// and splits meet at the end (flash decoding). The block that finishes a row's last split combines them in their order.
//
// Products of 16-bit elements run on tensor cores, transposed: S^T = K Q^T and O^T = V^T P^T, so that eight slots, not
// sixteen, are the smallest tile. Single rows of the usual sizes have kernels of their own, in paged_decode.cu, which make
// the same sums.

constexpr int PAGE = 64;
constexpr int WARPS = 4;
constexpr int WARP_KEYS = PAGE / WARPS;
// Beyond this many splits they get longer instead.
constexpr int MAX_SPLITS = 64;
// Room for the splits of one row: a window may begin and end within one.
constexpr int SPLIT_ROOM = MAX_SPLITS + 4;
// row_sequence of a row that is only there to fill a batch: nothing is written to the cache, and zeros come out.
constexpr unsigned PADDING = 0xffffffffu;
constexpr int WHOLE_SPAN = 1 << 30;

#define PARAMETERS                                                                                                     \
    const T *q, const T *k_new, const T *v_new, const float *q_weight, const float *k_weight, const float *cos,       \
        const float *sin, T *pages, const unsigned *table, const unsigned *row_sequence, const unsigned *positions,   \
        float *partials, unsigned *counters, T *out, int rows, int heads, int kv_heads, int dim, int value_dim,       \
        int page_count, int sequences, int table_width, int bound_pages, int window, float scale, float cap,          \
        float q_offset, float q_eps, float k_offset, float k_eps, int norm_lanes, int rope_dims, int interleaved, int stages, int whole
#define ARGUMENTS                                                                                                      \
    {                                                                                                                  \
        q, k_new, v_new, q_weight, k_weight, cos, sin, pages, table, row_sequence, positions, partials, counters, out, \
            rows, heads, kv_heads, dim, value_dim, page_count, sequences, table_width, bound_pages, window, scale,     \
            cap, q_offset, q_eps, k_offset, k_eps, norm_lanes, rope_dims, interleaved, stages, whole                         \
    }

// No pointer is __restrict__: such loads may be moved above the wait for earlier kernels.
struct Call {
    const T* q;        // [rows, heads, dim]
    const T* k_new;    // [rows, kv_heads, dim], before norm and rotation; null where the cache already has this step's keys
    const T* v_new;    // [rows, kv_heads, value_dim]
    const float *q_weight, *k_weight;    // [dim]; null: no norm
    const float *cos, *sin;              // [rows, rope_dims / 2]
    T* pages;
    const unsigned* table;    // [sequences, table_width]
    const unsigned *row_sequence, *positions;
    float* partials;       // values [rows * heads, splits, value_dim], then maxima and sums [rows * heads, splits]
    unsigned* counters;    // [rows * gridDim.y], zero before and after
    T* out;                // [rows, heads, value_dim]
    int rows, heads, kv_heads, dim, value_dim, page_count, sequences, table_width;
    int bound_pages;    // positions are below bound_pages * PAGE
    int window;         // keys a row sees at most
    float scale, cap;
    float q_offset, q_eps, k_offset, k_eps;
    int norm_lanes;    // threads that share a row's sum in the separate norm: the order of that sum
    int rope_dims, interleaved;
    int stages;    // tiles of a warp in shared memory
    int whole;     // one block takes all keys of its rows
};

__device__ __forceinline__ void begin_after_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float load_l2(const float* from) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(from));
    return x;
}
// Adds one, or wraps to zero at `last`; gives the old count. What the block wrote before is seen by the one that counts
// after it.
__device__ __forceinline__ unsigned count_up(unsigned* counter, unsigned last) {
    unsigned old;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(old) : "l"(counter), "r"(last) : "memory");
    return old;
}
constexpr float LOG2_E = 1.4426950408889634f;
__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

// What a block works on.
struct Place {
    int row, rows;    // consecutive positions of one sequence
    int sequence, position;
    int kv_head, first_head, heads;
    int first_split, split, splits;    // `split` is counted from the first visible one
    int from, to;         // keys of the split that any of the rows sees
    bool newest;          // the split has the last row's own key

    __device__ __forceinline__ int used() const { return rows * heads; }
    __device__ __forceinline__ int row_of(int slot) const { return row + slot / heads; }
    __device__ __forceinline__ int head_of(int slot) const { return first_head + slot % heads; }
};

// False if there is nothing to do.
template <int SLOTS> __device__ __forceinline__ bool find_place(const Call& call, Place& place) {
    int lane = threadIdx.x & 31;
    int group = call.heads / call.kv_heads, chunk = min(group, SLOTS), chunks = ceil_div(group, chunk);
    int together = call.k_new || chunk < group ? 1 : SLOTS / group;
    place.kv_head = blockIdx.y / chunks;
    int first = blockIdx.y % chunks * chunk;
    place.first_head = place.kv_head * group + first;
    place.heads = min(chunk, group - first);

    // Stretches of rows that a block takes are cut where positions are multiples of `together`, and where the size of
    // splits changes. The block of a stretch's first row takes all of it, the others have nothing to do.
    int row = blockIdx.x;
    unsigned sequence = call.row_sequence[row], position = call.positions[row];
    place.row = row;
    place.rows = 1;
    if (together > 1) {
        auto cut = [&](unsigned at) { return at % together == 0 || at % (MAX_SPLITS * PAGE) == 0; };
        auto follows = [&](int other, unsigned at) {
            return call.row_sequence[other] == sequence && call.positions[other] == at && sequence != PADDING;
        };
        if (row > 0 && !cut(position) && follows(row - 1, position - 1)) return false;
        bool mine = lane == 0 || (lane < together && row + lane < call.rows && !cut(position + lane) &&
                                  follows(row + lane, position + lane));
        unsigned others = ~__ballot_sync(0xffffffffu, mine);
        place.rows = others ? __ffs(others) - 1 : 32;
    }
    unsigned last = position + place.rows - 1;
    bool wrong = sequence >= (unsigned)call.sequences || last >= (unsigned)call.bound_pages * PAGE;
    if (wrong) {
        // A row outside the table would be silently wrong: it gives NaN instead.
        float value = sequence == PADDING ? 0.0f : not_a_number();
        if (blockIdx.z == 0) {
            for (int slot = 0; slot < place.used(); slot++) {
                T* out = call.out + ((long long)place.row_of(slot) * call.heads + place.head_of(slot)) * call.value_dim;
                for (int i = threadIdx.x; i < call.value_dim; i += blockDim.x) out[i] = from_float(value);
            }
        }
        return false;
    }
    place.sequence = sequence;
    place.position = position;
    int low = max(0, place.position + 1 - call.window);
    int span = call.whole ? WHOLE_SPAN : PAGE;
    while ((long long)span * MAX_SPLITS < min((int)last + 1, call.window)) span *= 2;
    place.first_split = low / span;
    place.split = blockIdx.z;
    place.splits = call.whole ? 1 : (int)last / span - place.first_split + 1;
    if (place.split >= place.splits) return false;
    int start = (place.first_split + place.split) * span;
    place.from = max(start, low);
    place.to = min(start + span, (int)last + 1);
    place.newest = place.split == place.splits - 1;
    return true;
}

// Where things lie in shared memory; `shared_bytes` in paged.rs adds the same sizes.
struct Layout {
    T* q;                     // [slots, q_stride], zero beyond dim
    T *key, *value;           // this step's key and value
    float *maxima, *sums;     // [WARPS, slots]; later the warps' weights, and the block's sums
    char* region;             // tiles of keys and values; then [WARPS, slots, value_dim + 4]
    const T* zeros;           // 16 bytes
    int q_stride;

    __device__ __forceinline__ Layout(char* base, const Call& call, int slots) {
        auto round = [](int elements) { return (int)(elements * sizeof(T) + 15) / 16 * 16; };
        // An odd number of 16-byte chunks: rows begin in different banks.
        q_stride = (call.dim + 15) / 16 * 16 + 16 / (int)sizeof(T);
        zeros = reinterpret_cast<T*>(base);
        base += 16;
        q = reinterpret_cast<T*>(base);
        base += round(slots * q_stride);
        key = reinterpret_cast<T*>(base);
        base += round(call.dim);
        value = reinterpret_cast<T*>(base);
        base += round(call.value_dim);
        maxima = reinterpret_cast<float*>(base);
        sums = maxima + WARPS * slots;
        region = base + WARPS * slots * 8;
    }
};

__device__ __forceinline__ T* head_of_page(const Call& call, unsigned page, int kv_head) {
    return call.pages + ((long long)page * call.kv_heads + kv_head) * PAGE * (call.dim + call.value_dim);
}

// One warp: a head's row normalised and rotated, each rounded to T as the separate kernels do and in their order of
// sums. V numbers per access.
template <int V>
__device__ __forceinline__ void prepare_head(const T* from, const float* weight, float offset, float eps,
                                             const float* cos, const float* sin, const Call& call, T* to) {
    constexpr int PARTS = 256 / (32 * V);
    int lane = threadIdx.x & 31, half = call.rope_dims / 2;
    float x[PARTS][V], factor[PARTS][V], c[4], s[4];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        int column = (lane + part * 32) * V;
#pragma unroll
        for (int i = 0; i < V; i++) x[part][i] = factor[part][i] = 0.0f;
        if (column >= call.dim) continue;
        if constexpr (V > 1) {
            Pack pack = load_pack(from + column);
#pragma unroll
            for (int i = 0; i < V; i++) x[part][i] = to_float(pack.at[i]);
        } else {
            x[part][0] = to_float(from[column]);
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            if (weight) factor[part][i] = weight[column + i] + offset;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bool mine = lane + 32 * i < half;
        c[i] = mine ? cos[lane + 32 * i] : 0.0f;
        s[i] = mine ? sin[lane + 32 * i] : 0.0f;
    }
    auto write = [&](T* row) {
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            int column = (lane + part * 32) * V;
            if (column >= call.dim) continue;
            if constexpr (V > 1) {
                Pack pack;
#pragma unroll
                for (int i = 0; i < V; i++) pack.at[i] = from_float(x[part][i]);
                store_pack(row + column, pack);
            } else {
                row[column] = from_float(x[part][0]);
            }
        }
    };
    if (weight) {
        // The sum is made in the order of the separate kernel: of numbers as they lie in the first lanes there.
        write(to);
        __syncwarp();
        float squares = 0.0f;
        for (int column = lane * V; lane < call.norm_lanes && column < call.dim; column += call.norm_lanes * V) {
            float numbers[V];
            if constexpr (V > 1) {
                Pack pack = load_pack(to + column);
#pragma unroll
                for (int i = 0; i < V; i++) numbers[i] = to_float(pack.at[i]);
            } else {
                numbers[0] = to_float(to[column]);
            }
#pragma unroll
            for (int i = 0; i < V; i++) squares = __fmaf_rn(numbers[i], numbers[i], squares);
        }
        for (int offset = call.norm_lanes / 2; offset > 0; offset /= 2) {
            squares += __shfl_xor_sync(0xffffffffu, squares, offset);
        }
        squares = __shfl_sync(0xffffffffu, squares, 0);
        float norm = rsqrtf(__fmaf_rn(squares, 1.0f / call.dim, eps));
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
#pragma unroll
            for (int i = 0; i < V; i++) x[part][i] = __fmul_rn(__fmul_rn(x[part][i], norm), factor[part][i]);
        }
    }
    write(to);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int pair = lane + 32 * i;
        if (pair < half) {
            int a = call.interleaved ? 2 * pair : pair, b = call.interleaved ? a + 1 : pair + half;
            float first = to_float(to[a]), second = to_float(to[b]);
            to[a] = from_float(__fmaf_rn(first, c[i], -__fmul_rn(second, s[i])));
            to[b] = from_float(__fmaf_rn(first, s[i], __fmul_rn(second, c[i])));
        }
    }
    __syncwarp();
}

// Writes the block's queries to shared memory. Where the step's key is new, the block with the newest split also makes
// that key and stores it with its value, in shared memory and in the cache.
template <int V>
__device__ __forceinline__ void prepare_queries(const Call& call, const Place& place, const Layout& at, int slots) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    long long row = place.row;
    const float *cos = call.cos + row * (call.rope_dims / 2), *sin = call.sin + row * (call.rope_dims / 2);
    int extra = call.k_new && place.newest ? 2 : 0;
    for (int job = warp; job < slots + extra; job += WARPS) {
        // Keys first: they are also written to memory.
        int slot = job - extra;
        if (slot >= place.used()) {
            for (int i = lane; i < at.q_stride; i += 32) at.q[slot * at.q_stride + i] = from_float(0.0f);
        } else if (slot >= 0) {
            T* to = at.q + slot * at.q_stride;
            const T* from = call.q + ((long long)place.row_of(slot) * call.heads + place.head_of(slot)) * call.dim;
            for (int i = call.dim + lane; i < at.q_stride; i += 32) to[i] = from_float(0.0f);
            if (call.k_new) {
                prepare_head<V>(from, call.q_weight, call.q_offset, call.q_eps, cos, sin, call, to);
            } else {
                for (int i = lane * V; i < call.dim; i += 32 * V) {
                    if constexpr (V > 1) {
                        store_pack(to + i, load_pack(from + i));
                    } else {
                        to[i] = from[i];
                    }
                }
            }
        } else {
            unsigned page = call.table[(long long)place.sequence * call.table_width + place.position / PAGE];
            bool stored = page < (unsigned)call.page_count && place.first_head % (call.heads / call.kv_heads) == 0;
            int token = place.position % PAGE;
            T* head = head_of_page(call, page, place.kv_head);
            bool is_key = job == 0;
            int width = is_key ? call.dim : call.value_dim;
            T* to = is_key ? at.key : at.value;
            T* cache = is_key ? head + token * width : head + PAGE * call.dim + token * width;
            const T* from = (is_key ? call.k_new : call.v_new) + (row * call.kv_heads + place.kv_head) * width;
            if (is_key) {
                prepare_head<V>(from, call.k_weight, call.k_offset, call.k_eps, cos, sin, call, to);
                from = to;
            }
            for (int i = lane * V; i < width; i += 32 * V) {
                if constexpr (V > 1) {
                    Pack pack = load_pack(from + i);
                    if (!is_key) store_pack(to + i, pack);
                    if (stored) store_pack(cache + i, pack);
                } else {
                    T x = from[i];
                    if (!is_key) to[i] = x;
                    if (stored) cache[i] = x;
                }
            }
        }
    }
}

// All warps have written their values to `region` and their maxima and sums. Puts the warps together, then, where the
// row has several splits, the splits.
template <int SLOTS> __device__ void finish(const Call& call, const Place& place, const Layout& at) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int width = call.value_dim, stride = width + 4, used = place.used();
    int segments = ceil_div(width, 64), splits = gridDim.z;
    float* values = reinterpret_cast<float*>(at.region);
    long long count = (long long)call.rows * call.heads * splits;
    float *maxima = call.partials + count * width, *sums = maxima + count;
    __syncthreads();
    if (threadIdx.x < used) {
        int slot = threadIdx.x;
        float m = minus_infinity(), sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) m = fmaxf(m, at.maxima[w * SLOTS + slot]);
        float base = m == minus_infinity() ? 0.0f : m;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2_fast(at.maxima[w * SLOTS + slot] - base);
            sum = __fmaf_rn(at.sums[w * SLOTS + slot], weight, sum);
            at.maxima[w * SLOTS + slot] = weight;
        }
        if (place.splits == 1) {
            at.sums[slot] = 1.0f / sum;
        } else {
            long long index = ((long long)place.row_of(slot) * call.heads + place.head_of(slot)) * splits + place.split;
            maxima[index] = m;
            sums[index] = sum;
        }
    }
    __syncthreads();
    for (int unit = warp; unit < used * segments; unit += WARPS) {
        int slot = unit / segments;
        long long head = (long long)place.row_of(slot) * call.heads + place.head_of(slot);
        for (int i = unit % segments * 64 + lane; i < min(width, (unit % segments + 1) * 64); i += 32) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                sum = __fmaf_rn(values[(w * SLOTS + slot) * stride + i], at.maxima[w * SLOTS + slot], sum);
            }
            if (place.splits == 1) {
                call.out[head * width + i] = from_float(sum * at.sums[slot]);
            } else {
                call.partials[(head * splits + place.split) * width + i] = sum;
            }
        }
    }
    if (place.splits == 1) return;

    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned last = place.splits - 1;
        is_last = count_up(call.counters + (long long)place.row * gridDim.y + blockIdx.y, last) == last;
    }
    __syncthreads();
    if (!is_last) return;
    for (int unit = warp; unit < used * segments; unit += WARPS) {
        int slot = unit / segments, column = unit % segments * 64 + lane;
        long long head = (long long)place.row_of(slot) * call.heads + place.head_of(slot);
        const float* parts = call.partials + head * splits * width + column;
        bool one = column < width, two = column + 32 < width;
        // All first loads leave together.
        constexpr int BATCH = 8, PER_LANE = (SPLIT_ROOM + 31) / 32;
        float a[BATCH], b[BATCH], weights[PER_LANE], totals[PER_LANE];
        auto load = [&](int first) {
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                bool in = first + i < place.splits;
                a[i] = in && one ? load_l2(parts + (first + i) * width) : 0.0f;
                b[i] = in && two ? load_l2(parts + (first + i) * width + 32) : 0.0f;
            }
        };
        // A lane's splits follow from their places in the sequence, not from how many more the block's other rows see.
        int own = lane - place.first_split & 31;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            bool in = own + 32 * i < place.splits;
            weights[i] = in ? load_l2(maxima + head * splits + own + 32 * i) : minus_infinity();
            totals[i] = in ? load_l2(sums + head * splits + own + 32 * i) : 0.0f;
        }
        load(0);
        float m = minus_infinity(), total = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) m = fmaxf(m, weights[i]);
        m = warp_max(m);
        float base = m == minus_infinity() ? 0.0f : m;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            weights[i] = exp2_fast(weights[i] - base);
            total = __fmaf_rn(totals[i], weights[i], total);
        }
        float inverse = 1.0f / warp_sum(total), x = 0.0f, y = 0.0f;
        for (int first = 0; first < place.splits; first += BATCH) {
            if (first > 0) load(first);
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                // Splits behind the last have weight zero.
                float held = first + i < 32 ? weights[0] : first + i < 64 ? weights[1] : weights[2];
                float weight = __shfl_sync(0xffffffffu, held, first + i + place.first_split & 31);
                x = __fmaf_rn(a[i], weight, x);
                y = __fmaf_rn(b[i], weight, y);
            }
        }
        if (one) call.out[head * width + column] = from_float(x * inverse);
        if (two) call.out[head * width + column + 32] = from_float(y * inverse);
    }
}

// A score as the exponent of two.
__device__ __forceinline__ float exponent(const Call& call, float dot) {
    if (call.cap > 0.0f) return call.cap * tanhf(dot * call.scale / call.cap) * LOG2_E;
    return dot * (call.scale * LOG2_E);
}
