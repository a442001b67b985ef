// Attention of a decode step inside persistent.cu, after persistent.cuh: one warp takes one split of the keys of one row
// and key-value head, for all query heads that share it; then warps put the splits of a head together.
//
// Splits follow from the row's position alone, so no result depends on the batch. Scores are products on tensor cores with
// keys straight from memory; the sum over values is made in f32 by the lanes that read them.

#if ELEMENT != 0

constexpr int PAGE = 64;
constexpr int TILE = 16;
// Beyond this many splits they get longer; a window may begin and end within one.
constexpr int MAX_SPLITS = 62;
// row_sequence of a row that only fills a batch.
constexpr unsigned PADDING = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;
__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

// A stretch of numbers: of type T, or words of which the upper half says in which launch the lower half was written.
struct Operand {
    const void* at;
    unsigned long long tagged;
};

// As `Attention` in persistent.rs writes it.
struct Attention {
    int kind, heads, kv_heads, dim;
    int window, rope_dims, interleaved, page_count;
    int sequences, table_width, bound_pages, room;    // room: splits of a head in `partials`
    float scale, cap, q_offset, q_eps, k_offset, k_eps;
    long long unused;
    Operand q, k, v;                                  // [rows, heads or kv_heads, dim]
    const float *q_weight, *k_weight, *cos, *sin;
    T* pages;
    const unsigned *table, *row_sequence, *positions;
    u64* partials;        // [rows, heads, room, dim + 2]: values, maximum and sum; the upper half says when
    unsigned* tagged;     // the result as words, or null
    T* out;               // or plain, or null
};

// What tells this launch's words from earlier ones: the low 16 bits of its number, and its number and the operation's.
struct Turn {
    unsigned tag;
    u64 mark;
    bool waits;    // off only to measure
};

// The splits of a row.
struct Span {
    unsigned sequence;
    int position, low, size, first, count;
    bool padding;

    __device__ __forceinline__ Span(const Attention& op, int row) {
        sequence = op.row_sequence[row];
        unsigned at = op.positions[row];
        padding = sequence == PADDING;
        bool wrong = sequence >= (unsigned)op.sequences || at >= (unsigned)op.bound_pages * PAGE;
        position = wrong ? 0 : (int)at;
        low = max(0, position + 1 - op.window);
        size = TILE;
        while (size * MAX_SPLITS < min(position + 1, op.window)) size *= 2;
        first = low / size;
        count = wrong ? 0 : position / size - first + 1;
    }
};

// A warp's piece of work.
struct Item {
    int row, kv_head, split;

    // False behind the last.
    __device__ __forceinline__ bool find(const Attention& op, int rows, int index) {
        for (row = 0; row < rows; row++) {
            int count = Span(op, row).count;
            if (index < count * op.kv_heads) {
                kv_head = index / count;
                split = index % count;
                return true;
            }
            index -= count * op.kv_heads;
        }
        return false;
    }
};

__device__ __forceinline__ T* head_of_page(const Attention& op, unsigned page, int kv_head) {
    return op.pages + ((long long)page * op.kv_heads + kv_head) * PAGE * (2 * op.dim);
}

// Four numbers as they are stored, in two words.
struct Quad {
    unsigned low, high;
};
__device__ __forceinline__ Quad join(uint4 words) {
    return Quad{(words.x & 0xffffu) | words.y << 16, (words.z & 0xffffu) | words.w << 16};
}
__device__ __forceinline__ bool is_fresh(uint4 words, unsigned tag) {
    // Zero where all upper halves are the tag.
    unsigned wrong = (words.x ^ tag << 16) | (words.y ^ tag << 16) | (words.z ^ tag << 16) | (words.w ^ tag << 16);
    return wrong >> 16 == 0;
}
// Four numbers from `index` on, and whether they are there.
__device__ __forceinline__ bool load_quad(const Operand& from, long long index, unsigned tag, Quad& to) {
    if (from.tagged) {
        uint4 words = load_words(static_cast<const unsigned*>(from.at) + index);
        to = join(words);
        return is_fresh(words, tag);
    }
    uint2 pair = *reinterpret_cast<const uint2*>(static_cast<const T*>(from.at) + index);
    to = Quad{pair.x, pair.y};
    return true;
}
__device__ __forceinline__ float half_of(unsigned pair, int high) {
    T x;
    x.bits = (unsigned short)(high ? pair >> 16 : pair & 0xffffu);
    return to_float(x);
}

// Asks the second-level cache for the keys and values that this block will read.
__device__ __forceinline__ void prefetch_cache(const Attention& op, int rows) {
    int lane = threadIdx.x & 31;
    for (int index = blockIdx.x + lane * gridDim.x;; index += 32 * gridDim.x) {
        Item item;
        bool found = item.find(op, rows, index);
        if (found) {
            Span span(op, item.row);
            int from = (span.first + item.split) * span.size, to = min(from + span.size, span.position);
            for (int key = from; key < to; key += TILE) {
                unsigned page = op.table[(long long)span.sequence * op.table_width + key / PAGE];
                if (page >= (unsigned)op.page_count) continue;
                const T* head = head_of_page(op, page, item.kv_head) + key % PAGE * op.dim;
                prefetch_bulk(head, TILE * op.dim * 2);
                prefetch_bulk(head + PAGE * op.dim, TILE * op.dim * 2);
            }
        }
        if (!__any_sync(0xffffffffu, found)) break;
    }
}

// One item. `memory` is the warp's own: SLOTS queries, this step's key and value, weights [TILE][SLOTS].
template <int DIM, int SLOTS>
__device__ __noinline__ void attend_split(const Attention& op, const Item& item, const Turn& turn, char* memory) {
    constexpr int STEPS = DIM / 32, LANES = DIM / 8, AT_ONCE = 32 / LANES, LOADS = TILE / AT_ONCE;
    constexpr int STRIDE = DIM + 8;    // rows begin in different banks
    int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, part = lane / LANES, piece = lane % LANES;
    int group = op.heads / op.kv_heads;
    T* queries = reinterpret_cast<T*>(memory);
    T *own_key = queries + SLOTS * STRIDE, *own_value = own_key + STRIDE;
    float* weights = reinterpret_cast<float*>(own_value + STRIDE);
    Span span(op, item.row);
    int start = (span.first + item.split) * span.size;
    int from = max(start, span.low), to = min(start + span.size, span.position + 1);
    bool newest = item.split == span.count - 1, bad = false;
    int known = newest ? span.position : to;
    const unsigned* table = op.table + (long long)span.sequence * op.table_width;

    uint4 keys[2][STEPS], values[LOADS];
    const uint4 zero = make_uint4(0, 0, 0, 0);
    auto head_at = [&](int key) {
        unsigned page = table[key / PAGE];
        if (page >= (unsigned)op.page_count) {
            bad = true;
            page = 0;
        }
        return head_of_page(op, page, item.kv_head) + key % PAGE * DIM;
    };
    auto load_keys = [&](const T* head, int tile) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int key = tile + g + 8 * half;
            bool in = key >= from && key < known;
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                keys[half][s] = in ? load_once(head + (g + 8 * half) * DIM + s * 32 + t * 8) : zero;
            }
        }
    };
    auto load_values = [&](const T* head, int tile) {
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int at = i * AT_ONCE + part, key = tile + at;
            bool in = key >= from && key < known;
            values[i] = in ? load_once(head + PAGE * DIM + at * DIM + piece * 8) : zero;
        }
    };
    int tile = from & ~(TILE - 1);
    const T* head = head_at(tile);
    load_keys(head, tile);
    load_values(head, tile);

    // The step's queries, key and value. What they are multiplied with is read before they are waited for.
    int half = op.rope_dims / 2, column = lane * 4;
    bool mine = column < DIM;
    float c[2], s[2], q_factor[4], k_factor[4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int pair = lane + 32 * i;
        c[i] = pair < half ? op.cos[(long long)item.row * half + pair] : 0.0f;
        s[i] = pair < half ? op.sin[(long long)item.row * half + pair] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        q_factor[i] = op.q_weight && mine ? op.q_weight[column + i] + op.q_offset : 0.0f;
        k_factor[i] = op.k_weight && mine ? op.k_weight[column + i] + op.k_offset : 0.0f;
    }
    Quad quads[SLOTS + 2];
    unsigned polls = 0;
    bool fresh;
    do {
        fresh = true;
#pragma unroll
        for (int slot = 0; slot < SLOTS + 2; slot++) {
            quads[slot] = Quad{0, 0};
            if (!mine) continue;
            long long kv = ((long long)item.row * op.kv_heads + item.kv_head) * DIM + column;
            if (slot < SLOTS) {
                if (slot >= group) continue;
                long long at = ((long long)item.row * op.heads + item.kv_head * group + slot) * DIM + column;
                fresh &= load_quad(op.q, at, turn.tag, quads[slot]);
            } else if (newest) {
                fresh &= load_quad(slot == SLOTS ? op.k : op.v, kv, turn.tag, quads[slot]);
            }
        }
        if (++polls == PATIENCE) give_up();
    } while (turn.waits && !__all_sync(0xffffffffu, fresh));
#pragma unroll
    for (int slot = 0; slot < SLOTS + 2; slot++) {
        bool is_key = slot == SLOTS, is_value = slot > SLOTS;
        if (slot < SLOTS ? slot >= group : !newest) continue;
        Quad quad = quads[slot];
        if (!is_value && (is_key ? op.k_weight : op.q_weight)) {
            float x[4] = {half_of(quad.low, 0), half_of(quad.low, 1), half_of(quad.high, 0), half_of(quad.high, 1)};
            float squares = 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++) squares = __fmaf_rn(x[i], x[i], squares);
            squares = warp_sum(squares);
            float norm = rsqrtf(__fmaf_rn(squares, 1.0f / DIM, is_key ? op.k_eps : op.q_eps));
#pragma unroll
            for (int i = 0; i < 4; i++) x[i] = __fmul_rn(__fmul_rn(x[i], norm), is_key ? k_factor[i] : q_factor[i]);
            quad.low = round_pair(x[0], x[1]);
            quad.high = round_pair(x[2], x[3]);
        }
        if (mine) {
            unsigned at = shared_address(queries + slot * STRIDE + column);
            write_shared_word(at, quad.low);
            write_shared_word(at + 4, quad.high);
        }
    }
    __syncwarp();
    for (int slot = 0; slot <= SLOTS; slot++) {
        if (slot < SLOTS ? slot >= group : !newest) continue;
        T* row = queries + slot * STRIDE;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int pair = lane + 32 * i;
            if (pair >= half) continue;
            int a = op.interleaved ? 2 * pair : pair, b = op.interleaved ? a + 1 : pair + half;
            float first = to_float(row[a]), second = to_float(row[b]);
            row[a] = from_float(__fmaf_rn(first, c[i], -__fmul_rn(second, s[i])));
            row[b] = from_float(__fmaf_rn(first, s[i], __fmul_rn(second, c[i])));
        }
    }
    __syncwarp();
    if (newest && lane < LANES) {
        unsigned page = table[span.position / PAGE];
        if (page < (unsigned)op.page_count) {
            T* cache = head_of_page(op, page, item.kv_head) + span.position % PAGE * DIM + lane * 8;
            store_pack(cache, load_pack(own_key + lane * 8));
            store_pack(cache + PAGE * DIM, load_pack(own_value + lane * 8));
        } else {
            bad = true;
        }
    }

    uint4 query[STEPS];
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        query[i] = read_shared(shared_address(queries + (g < group ? g : 0) * STRIDE + i * 32 + t * 8));
    }
    float sums[SLOTS][8], maxima[2] = {minus_infinity(), minus_infinity()}, totals[2] = {0.0f, 0.0f};
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
#pragma unroll
        for (int i = 0; i < 8; i++) sums[slot][i] = 0.0f;
    }
    for (; tile < to; tile += TILE) {
        int own = newest ? span.position - tile : -1;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (own != g + 8 * half) continue;
#pragma unroll
            for (int i = 0; i < STEPS; i++) keys[half][i] = read_shared(shared_address(own_key + i * 32 + t * 8));
        }
        float even[4] = {}, odd[4] = {};
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const unsigned a[4] = {keys[0][i].x, keys[1][i].x, keys[0][i].y, keys[1][i].y};
            const unsigned b[4] = {keys[0][i].z, keys[1][i].z, keys[0][i].w, keys[1][i].w};
            multiply_add(even, a, query[i].x, query[i].y);
            multiply_add(odd, b, query[i].z, query[i].w);
        }
        bool more = tile + TILE < to;
        const T* next = more ? head_at(tile + TILE) : head;
        if (more) load_keys(next, tile + TILE);
        float shrink[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float x[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int key = tile + g + 8 * half;
                float dot = (even[j + 2 * half] + odd[j + 2 * half]) * op.scale;
                if (op.cap > 0.0f) dot = op.cap * tanhf(dot / op.cap);
                x[half] = key >= from && key < to ? dot * LOG2_E : minus_infinity();
            }
            float m = fmaxf(x[0], x[1]);
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, offset));
            m = fmaxf(m, maxima[j]);
            float base = m == minus_infinity() ? 0.0f : m;
            shrink[j] = fast_exp2(maxima[j] - base);
            maxima[j] = m;
            x[0] = fast_exp2(x[0] - base);
            x[1] = fast_exp2(x[1] - base);
            totals[j] = __fmaf_rn(totals[j], shrink[j], x[0] + x[1]);
            if (2 * t + j < SLOTS) {
                weights[g * SLOTS + 2 * t + j] = x[0];
                weights[(g + 8) * SLOTS + 2 * t + j] = x[1];
            }
        }
        __syncwarp();
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            float factor = __shfl_sync(0xffffffffu, shrink[slot & 1], slot >> 1);
#pragma unroll
            for (int i = 0; i < 8; i++) sums[slot][i] *= factor;
        }
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            int at = i * AT_ONCE + part;
            uint4 value = own == at ? read_shared(shared_address(own_value + piece * 8)) : values[i];
            const Pack& pack = reinterpret_cast<const Pack&>(value);
            float x[8];
#pragma unroll
            for (int n = 0; n < 8; n++) x[n] = to_float(pack.at[n]);
#pragma unroll
            for (int slot = 0; slot < SLOTS; slot++) {
                float weight = weights[at * SLOTS + slot];
#pragma unroll
                for (int n = 0; n < 8; n++) sums[slot][n] = __fmaf_rn(x[n], weight, sums[slot][n]);
            }
        }
        if (more) load_values(next, tile + TILE);
        head = next;
        __syncwarp();
    }

    bad = __any_sync(0xffffffffu, bad);
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) totals[j] += __shfl_xor_sync(0xffffffffu, totals[j], offset);
    }
    auto entry = [&](float x) { return turn.mark << 32 | __float_as_uint(x); };
    auto place = [&](int slot) {
        long long index = (long long)item.row * op.heads + item.kv_head * group + slot;
        return op.partials + (index * op.room + item.split) * (DIM + 2);
    };
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2) {
                sums[slot][n] += __shfl_xor_sync(0xffffffffu, sums[slot][n], offset);
            }
        }
        if (slot >= group || slot % AT_ONCE != part) continue;
        u64* to = place(slot) + piece * 8;
#pragma unroll
        for (int n = 0; n < 8; n += 2) store_longs(to + n, entry(sums[slot][n]), entry(sums[slot][n + 1]));
    }
    if (g == 0) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (2 * t + j >= group) continue;
            float total = bad ? not_a_number() : totals[j];
            store_longs(place(2 * t + j) + DIM, entry(maxima[j]), entry(total));
        }
    }
    __syncwarp();
}

// One warp: 32 columns of a head of a row, of all its splits.
__device__ __forceinline__ void combine_splits(const Attention& op, int unit, const Turn& turn) {
    constexpr int BATCH = 8;
    int lane = threadIdx.x & 31, segments = op.dim / 32, stride = op.dim + 2;
    int column = unit % segments * 32 + lane;
    long long head = unit / segments;
    Span span(op, (int)(head / op.heads));
    const u64* from = op.partials + head * op.room * stride;
    float value = span.padding ? 0.0f : not_a_number();
    if (span.count > 0) {
        u64 held[BATCH];
        auto load = [&](int first) {
            bool fresh = true;
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                held[i] = 0;
                if (first + i >= span.count) continue;
                held[i] = load_long(from + (first + i) * stride + column);
                fresh &= held[i] >> 32 == turn.mark;
            }
            return fresh;
        };
        float maxima[2], totals[2];
        unsigned polls = 0;
        bool fresh;
        do {
            fresh = load(0);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                maxima[i] = minus_infinity();
                totals[i] = 0.0f;
                int split = lane + 32 * i;
                if (split >= span.count) continue;
                u64 m, sum;
                load_longs(m, sum, from + split * stride + op.dim);
                fresh &= m >> 32 == turn.mark && sum >> 32 == turn.mark;
                maxima[i] = __uint_as_float((unsigned)m);
                totals[i] = __uint_as_float((unsigned)sum);
            }
            if (++polls == PATIENCE) give_up();
        } while (turn.waits && !__all_sync(0xffffffffu, fresh));
        float m = warp_max(fmaxf(maxima[0], maxima[1]));
        float base = m == minus_infinity() ? 0.0f : m;
        float weights[2] = {fast_exp2(maxima[0] - base), fast_exp2(maxima[1] - base)};
        float total = warp_sum(totals[0] * weights[0] + totals[1] * weights[1]), sum = 0.0f;
        for (int first = 0; first < span.count; first += BATCH) {
            if (first > 0) {
                polls = 0;
                while (!__all_sync(0xffffffffu, load(first)) && turn.waits) {
                    if (++polls == PATIENCE) give_up();
                }
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                float weight = __shfl_sync(0xffffffffu, first < 32 ? weights[0] : weights[1], (first + i) & 31);
                // Behind the last split zeros are multiplied by zero.
                sum = __fmaf_rn(__uint_as_float((unsigned)held[i]), weight, sum);
            }
        }
        value = sum / total;
    }
    long long at = head * op.dim + column;
    T result = from_float(value);
    if (op.tagged) store_word(op.tagged + at, turn.tag << 16 | result.bits);
    if (op.out) op.out[at] = result;
}

template <int DIM>
__device__ __forceinline__ void attend_group(const Attention& op, const Item& item, const Turn& turn, char* memory) {
    int group = op.heads / op.kv_heads;
    if (group <= 2) {
        attend_split<DIM, 2>(op, item, turn, memory);
    } else if (group <= 4) {
        attend_split<DIM, 4>(op, item, turn, memory);
    } else {
        attend_split<DIM, 8>(op, item, turn, memory);
    }
}

// A block's part, by `warps` warps. Neighbouring items go to different blocks, and combining begins with the blocks that
// have the fewest items.
__device__ __forceinline__ void attention(const Attention& op, int rows, const Turn& turn, char* memory, int warps) {
    int warp = threadIdx.x >> 5, step = gridDim.x * warps;
    Item item;
    for (int index = blockIdx.x + warp * gridDim.x; item.find(op, rows, index); index += step) {
        if (op.dim == 64) {
            attend_group<64>(op, item, turn, memory);
        } else {
            attend_group<128>(op, item, turn, memory);
        }
    }
    int units = rows * op.heads * (op.dim / 32);
    for (int unit = gridDim.x - 1 - blockIdx.x + warp * gridDim.x; unit < units; unit += step) {
        combine_splits(op, unit, turn);
    }
}

// In its place, to measure: zeros, as soon as the queries are there.
__device__ __forceinline__ void no_attention(const Attention& op, int rows, const Turn& turn, int threads) {
    int quads = rows * op.heads * (op.dim / 4);
    for (int i = blockIdx.x * threads + threadIdx.x; i < quads; i += gridDim.x * threads) {
        Quad quad;
        for (unsigned polls = 0; !load_quad(op.q, 4ll * i, turn.tag, quad) && turn.waits;) {
            if (++polls == PATIENCE) give_up();
        }
        if (!op.tagged) continue;
#pragma unroll
        for (int n = 0; n < 4; n++) store_word(op.tagged + 4 * i + n, turn.tag << 16);
    }
}

#endif
