// Attention of single rows, as in decoding, over a cache of pages; see paged.cuh. Behind `tensor_core.cuh` and `paged.cuh`.
//
// What `paged_split_*` computes, bit for bit, for heads of 64, 128 or 256 numbers, up to eight of them to a key-value head,
// and no cap. A step of decoding runs through a kernel once, so what it costs is the number of its instructions, which
// come from the second-level cache, and of its round trips to memory. So all sizes are known here, nothing is divided,
// and everything that does not depend on the row's place is asked for together with that place: then come the page's
// number, its keys and values, and where there are several splits their meeting.

constexpr int SLOTS = 8;

__device__ __forceinline__ unsigned transpose(unsigned x) {
    unsigned y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}
__device__ __forceinline__ void load_matrix_pair(unsigned (&to)[2], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void copy_line(unsigned to, const T* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// A warp's sixteen rows of DIM numbers in shared memory, as `Rows` in paged.cu.
template <int DIM> struct Tile {
    static constexpr int CHUNKS = DIM / 8, BYTES = WARP_KEYS * DIM * 2;

    static __device__ __forceinline__ unsigned chunk(unsigned address, int row, int index) {
        return address + (row * CHUNKS + (index ^ (row & 7))) * 16;
    }
    // Starts copying the rows [low, high); the others become zero.
    static __device__ __forceinline__ void copy(unsigned address, const T* from, int low, int high) {
        int lane = threadIdx.x & 31;
#pragma unroll
        for (int i = 0; i < WARP_KEYS * CHUNKS / 32; i++) {
            int index = lane + 32 * i, row = index / CHUNKS;
            copy_line(chunk(address, row, index % CHUNKS), from + index * 8, row >= low && row < high ? 16 : 0);
        }
        copy_async_commit();
    }
    // One warp: replaces a row.
    static __device__ __forceinline__ void set(char* base, unsigned address, int row, const T* from) {
        int lane = threadIdx.x & 31;
        if (lane < CHUNKS) {
            unsigned to = chunk(address, row, lane) - shared_address(base);
            *reinterpret_cast<uint4*>(base + to) = *reinterpret_cast<const uint4*>(from + lane * 8);
        }
        __syncwarp();
    }
};

// A head's row, normalised and rotated by one warp, as `prepare_head`: all loads first. A lane has pairs of numbers, those
// that turn together, then neighbours.
template <int DIM> struct Head {
    static constexpr int PAIRS = DIM / 64, LANES = DIM / 32 < 4 ? 4 : DIM / 32, PACKS = DIM / 8 / LANES;

    Pack packs[PACKS];
    T first[PAIRS], second[PAIRS];
    float c[PAIRS], s[PAIRS], first_factor[PAIRS], second_factor[PAIRS];

    static __device__ __forceinline__ int pair(int i) { return (threadIdx.x & 31) + 32 * i; }
    static __device__ __forceinline__ int first_of(const Call& call, int pair) {
        int half = call.rope_dims / 2;
        return pair >= half || call.interleaved ? 2 * pair : pair;
    }
    static __device__ __forceinline__ int second_of(const Call& call, int pair) {
        int half = call.rope_dims / 2;
        return pair >= half || call.interleaved ? 2 * pair + 1 : pair + half;
    }

    __device__ __forceinline__ void load(const Call& call, const T* from, const float* weight) {
        const float* cos = call.cos + (long long)blockIdx.x * (call.rope_dims / 2);
        const float* sin = call.sin + (long long)blockIdx.x * (call.rope_dims / 2);
        if (weight) {
#pragma unroll
            for (int i = 0; i < PACKS; i++) packs[i] = load_pack(from + ((threadIdx.x & 31) % LANES + LANES * i) * 8);
        }
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            int a = first_of(call, pair(i)), b = second_of(call, pair(i));
            bool turns = pair(i) < call.rope_dims / 2;
            first[i] = from[a];
            second[i] = from[b];
            c[i] = turns ? cos[pair(i)] : 0.0f;
            s[i] = turns ? sin[pair(i)] : 0.0f;
            first_factor[i] = weight ? weight[a] : 0.0f;
            second_factor[i] = weight ? weight[b] : 0.0f;
        }
    }
    __device__ __forceinline__ void finish(const Call& call, bool normalise, float offset, float eps, T* to) const {
        float norm = 1.0f;
        if (normalise) {
            float squares = 0.0f;
#pragma unroll
            for (int i = 0; i < PACKS; i++) {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float x = to_float(packs[i].at[j]);
                    squares = __fmaf_rn(x, x, squares);
                }
            }
#pragma unroll
            for (int apart = LANES / 2; apart > 0; apart /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, apart);
            norm = rsqrtf(__fmaf_rn(squares, 1.0f / DIM, eps));
        }
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            float a = to_float(first[i]), b = to_float(second[i]);
            if (normalise) {
                a = to_float(from_float(__fmul_rn(__fmul_rn(a, norm), first_factor[i] + offset)));
                b = to_float(from_float(__fmul_rn(__fmul_rn(b, norm), second_factor[i] + offset)));
            }
            float x = a, y = b;
            if (pair(i) < call.rope_dims / 2) {
                x = __fmaf_rn(a, c[i], -__fmul_rn(b, s[i]));
                y = __fmaf_rn(a, s[i], __fmul_rn(b, c[i]));
            }
            to[first_of(call, pair(i))] = from_float(x);
            to[second_of(call, pair(i))] = from_float(y);
        }
        __syncwarp();
    }
};

// The block's row: `find_place` for rows that are alone.
struct Alone {
    int sequence, position, kv_head, first_head, used;
    int first_split, split, splits, from, to;

    // False if there is nothing to do.
    __device__ __forceinline__ bool find(const Call& call, unsigned row_sequence, unsigned row_position) {
        if (row_sequence >= (unsigned)call.sequences || row_position >= (unsigned)call.bound_pages * PAGE) {
            if (blockIdx.z == 0) {
                T value = from_float(row_sequence == PADDING ? 0.0f : not_a_number());
                T* out = call.out + ((long long)blockIdx.x * call.heads + first_head) * call.dim;
                for (int i = threadIdx.x; i < used * call.dim; i += 32 * WARPS) out[i] = value;
            }
            return false;
        }
        sequence = row_sequence;
        position = row_position;
        int low = max(0, position + 1 - call.window), shift = 6;
        while ((MAX_SPLITS << shift) < min(position + 1, call.window)) shift++;
        first_split = low >> shift;
        split = blockIdx.z;
        splits = (position >> shift) - first_split + 1;
        if (split >= splits) return false;
        int start = (first_split + split) << shift;
        from = max(start, low);
        to = min(start + (1 << shift), position + 1);
        return true;
    }
};

// The warps' sums put together, then, by the block that is last, the splits': as `finish`, in its order.
template <int DIM> __device__ __forceinline__ void combine(const Call& call, const Alone& place, const Layout& at) {
    constexpr int STRIDE = DIM + 4, SEGMENTS = DIM / 64;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, splits = gridDim.z;
    const float* values = reinterpret_cast<const float*>(at.region);
    long long count = (long long)call.rows * call.heads * splits, head = (long long)blockIdx.x * call.heads + place.first_head;
    float *maxima = call.partials + count * DIM, *sums = maxima + count;
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < place.used * DIM; i += 32 * WARPS) {
        int slot = i / DIM, column = i % DIM;
        float of_warp[WARPS], m = minus_infinity(), sum = 0.0f, value = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) of_warp[w] = at.maxima[w * SLOTS + slot];
#pragma unroll
        for (int w = 0; w < WARPS; w++) m = fmaxf(m, of_warp[w]);
        float base = m == minus_infinity() ? 0.0f : m;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float weight = exp2_fast(of_warp[w] - base);
            sum = __fmaf_rn(at.sums[w * SLOTS + slot], weight, sum);
            value = __fmaf_rn(values[(w * SLOTS + slot) * STRIDE + column], weight, value);
        }
        if (place.splits == 1) {
            call.out[(head + slot) * DIM + column] = from_float(value * (1.0f / sum));
        } else {
            long long index = (head + slot) * splits + place.split;
            call.partials[index * DIM + column] = value;
            if (column == 0) {
                maxima[index] = m;
                sums[index] = sum;
            }
        }
    }
    if (place.splits == 1) return;

    __shared__ bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned last = place.splits - 1;
        is_last = count_up(call.counters + (long long)blockIdx.x * gridDim.y + blockIdx.y, last) == last;
    }
    __syncthreads();
    if (!is_last) return;
#pragma unroll 1
    for (int unit = warp; unit < place.used * SEGMENTS; unit += WARPS) {
        int slot = unit / SEGMENTS, column = unit % SEGMENTS * 64 + lane;
        const float* parts = call.partials + (head + slot) * splits * DIM + column;
        constexpr int BATCH = 8, PER_LANE = (SPLIT_ROOM + 31) / 32;
        float a[BATCH], b[BATCH], weights[PER_LANE], totals[PER_LANE];
        auto load = [&](int first) {
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                bool in = first + i < place.splits;
                a[i] = in ? load_l2(parts + (first + i) * DIM) : 0.0f;
                b[i] = in ? load_l2(parts + (first + i) * DIM + 32) : 0.0f;
            }
        };
        int own = lane - place.first_split & 31;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            bool in = own + 32 * i < place.splits;
            weights[i] = in ? load_l2(maxima + (head + slot) * splits + own + 32 * i) : minus_infinity();
            totals[i] = in ? load_l2(sums + (head + slot) * splits + own + 32 * i) : 0.0f;
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
#pragma unroll 1
        for (int first = 0; first < place.splits; first += BATCH) {
            if (first > 0) load(first);
            float held = first < 32 ? weights[0] : first < 64 ? weights[1] : weights[2];
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                float weight = __shfl_sync(0xffffffffu, held, first + i + place.first_split & 31);
                x = __fmaf_rn(a[i], weight, x);
                y = __fmaf_rn(b[i], weight, y);
            }
        }
        T* out = call.out + (head + slot) * DIM + column;
        out[0] = from_float(x * inverse);
        out[32] = from_float(y * inverse);
    }
}

template <int DIM, bool FUSED> __device__ __forceinline__ void attend_alone(Call call) {
    constexpr int STEPS = DIM / 16;
    extern __shared__ __align__(128) char memory[];
    call.dim = call.value_dim = DIM;
    Layout at(memory, call, SLOTS);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    Alone place;
    place.kv_head = blockIdx.y;
    place.used = call.heads / call.kv_heads;
    place.first_head = place.kv_head * place.used;
    int row = blockIdx.x;
    begin_after_earlier_kernels();

    unsigned row_sequence = call.row_sequence[row], row_position = call.positions[row];
    // Jobs of a warp: heads of the query, then, of warp 2 in the block with the newest split, the step's key; warp 3 has
    // its value. The first job's numbers are asked for before the block knows its split.
    constexpr int KEY = SLOTS, NONE = SLOTS + 1;
    const T* q = call.q + ((long long)row * call.heads + place.first_head) * DIM;
    const T* k_new = FUSED ? call.k_new + ((long long)row * call.kv_heads + place.kv_head) * DIM : nullptr;
    const T* v_new = FUSED ? call.v_new + ((long long)row * call.kv_heads + place.kv_head) * DIM : nullptr;
    Head<DIM> head;
    Pack plain;
    int job = warp < place.used ? warp : FUSED && warp == 2 ? KEY : NONE;
    if (job != NONE) {
        if (FUSED) {
            head.load(call, job == KEY ? k_new : q + job * DIM, job == KEY ? call.k_weight : call.q_weight);
        } else if (lane < DIM / 8) {
            plain = load_pack(q + job * DIM + lane * 8);
        }
    }
    if (!place.find(call, row_sequence, row_position)) return;
    bool newest = place.split == place.splits - 1;

    unsigned region = shared_address(at.region);
    const unsigned* page_ids = call.table + (long long)place.sequence * call.table_width;
    int first_tile = place.from / PAGE, tiles = (place.to - 1) / PAGE - first_tile + 1;
    int known = FUSED ? min(place.to, place.position) : place.to;
    bool bad = false;
    auto keys_of = [&](int tile) { return region + (warp * call.stages + (tile & call.stages - 1)) * (2 * Tile<DIM>::BYTES); };
    auto first_key = [&](int tile) { return (first_tile + tile) * PAGE + warp * WARP_KEYS; };
    auto is_seen = [&](int tile) { return first_key(tile) < place.to && first_key(tile) + WARP_KEYS > place.from; };
    unsigned next_page = page_ids[first_tile];
    auto fetch = [&](int tile) {
        if (tile < tiles && is_seen(tile)) {
            unsigned page = next_page;
            if (page >= (unsigned)call.page_count) {
                bad = true;
                page = 0;
            }
            int low = place.from - first_key(tile), high = known - first_key(tile);
            const T* head = head_of_page(call, page, place.kv_head) + warp * WARP_KEYS * DIM;
            Tile<DIM>::copy(keys_of(tile), head, low, high);
            Tile<DIM>::copy(keys_of(tile) + Tile<DIM>::BYTES, head + PAGE * DIM, low, high);
        } else {
            copy_async_commit();
            copy_async_commit();
        }
        if (tile + 1 < tiles) next_page = page_ids[first_tile + tile + 1];
    };
    fetch(0);

    if (FUSED) {
        if (job == KEY && !newest) job = NONE;
#pragma unroll 1
        while (job != NONE) {
            bool is_key = job == KEY;
            const float* weight = is_key ? call.k_weight : call.q_weight;
            head.finish(call, weight != nullptr, is_key ? call.k_offset : call.q_offset, is_key ? call.k_eps : call.q_eps,
                        is_key ? at.key : at.q + job * at.q_stride);
            job = !is_key && job + WARPS < place.used ? job + WARPS : !is_key && warp == 2 && newest ? KEY : NONE;
            if (job != NONE) {
                head.load(call, job == KEY ? k_new : q + job * DIM, job == KEY ? call.k_weight : call.q_weight);
            }
        }
        if (newest && warp >= 2 && lane < DIM / 8) {
            unsigned page = page_ids[place.position / PAGE];
            T* cache = head_of_page(call, page, place.kv_head) + place.position % PAGE * DIM + lane * 8;
            if (warp == 3) cache += PAGE * DIM;
            Pack pack = load_pack((warp == 2 ? at.key : v_new) + lane * 8);
            if (warp == 3) store_pack(at.value + lane * 8, pack);
            if (page < (unsigned)call.page_count) store_pack(cache, pack);
        }
    } else {
        if (job != NONE && lane < DIM / 8) store_pack(at.q + job * at.q_stride + lane * 8, plain);
        if (warp + WARPS < place.used && lane < DIM / 8) {
            store_pack(at.q + (warp + WARPS) * at.q_stride + lane * 8, load_pack(q + (warp + WARPS) * DIM + lane * 8));
        }
    }
    __syncthreads();

    // Slots without a head hold anything: what comes out of them is never read.
    float sums[STEPS][4] = {}, maxima[2] = {minus_infinity(), minus_infinity()}, totals[2] = {};
    unsigned query_at = shared_address(at.q) + ((lane & 7) * at.q_stride + (lane >> 3 & 1) * 8) * 2;
    float factor = call.scale * LOG2_E;
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
        __syncwarp();
        fetch(tile + 1);
        copy_async_wait<3>();
        __syncwarp();
        if (!is_seen(tile)) continue;
        unsigned keys = keys_of(tile), values = keys + Tile<DIM>::BYTES;
        int own = FUSED && newest ? place.position - first_key(tile) : -1;
        bool has_own = own >= 0 && own < WARP_KEYS;
        if (has_own) Tile<DIM>::set(at.region, keys + 0, own, at.key);

        // Even and odd steps add up apart: a shorter chain.
        float even[4] = {}, odd[4] = {};
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            unsigned a[4], b[2];
            load_matrices(a, Tile<DIM>::chunk(keys, lane & 15, 2 * k + (lane >> 4)));
            load_matrix_pair(b, query_at + k * 32);
            multiply_add(k & 1 ? odd : even, a, b[0], b[1]);
        }

        float x[4], shrink[2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int key = first_key(tile) + lane / 4 + j / 2 * 8;
            // Negative differences are large when unsigned.
            bool seen = (unsigned)(place.position - key) < (unsigned)call.window;
            x[j] = seen ? (even[j] + odd[j]) * factor : minus_infinity();
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float m = fmaxf(x[j], x[j + 2]);
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, offset));
            m = fmaxf(m, maxima[j]);
            float base = m == minus_infinity() ? 0.0f : m;
            shrink[j] = exp2_fast(maxima[j] - base);
            maxima[j] = m;
            x[j] = exp2_fast(x[j] - base);
            x[j + 2] = exp2_fast(x[j + 2] - base);
            totals[j] = __fmaf_rn(totals[j], shrink[j], x[j] + x[j + 2]);
        }
        unsigned low = transpose(round_pair(x[0], x[1])), high = transpose(round_pair(x[2], x[3]));
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] *= shrink[j & 1];
        }

        copy_async_wait<2>();
        __syncwarp();
        if (has_own) Tile<DIM>::set(at.region, values, own, at.value);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            unsigned a[4];
            load_matrices_transposed(
                a, Tile<DIM>::chunk(values, (lane & 7) + (lane >> 4) * 8, 2 * i + (lane >> 3 & 1)));
            multiply_add(sums[i], a, low, high);
        }
    }
    copy_async_wait<0>();
    __syncthreads();    // the tiles are not needed any more

    float* to = reinterpret_cast<float*>(at.region);
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int slot = lane % 4 * 2 + j;
        float total = totals[j];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
        if (slot >= place.used) continue;
        if (lane < 4) {
            at.maxima[warp * SLOTS + slot] = maxima[j];
            at.sums[warp * SLOTS + slot] = bad ? not_a_number() : total;
        }
        float* values = to + (warp * SLOTS + slot) * (DIM + 4) + lane / 4;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            values[i * 16] = sums[i][j];
            values[i * 16 + 8] = sums[i][j + 2];
        }
    }
    combine<DIM>(call, place, at);
}

#define ALONE(dim, fused_blocks, blocks)                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, fused_blocks) paged_fused_##dim(PARAMETERS) {  \
        attend_alone<dim, true>(ARGUMENTS);                                                                  \
    }                                                                                                        \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, blocks) paged_decode_##dim(PARAMETERS) {       \
        attend_alone<dim, false>(ARGUMENTS);                                                                 \
    }
ALONE(64, 6, 6)
ALONE(128, 5, 6)
ALONE(256, 3, 3)
