// A whole decode step in one launch: a list of operations (products of few rows as in `decode.cu`, attention over pages)
// that one block on each multiprocessor walks. Behind `tensor_core.cuh`, `decode.cuh`, `persistent.cuh` and
// `persistent_attention.cuh`.
//
// A block owns a range of rows of every matrix. One warp copies them through a ring in shared memory, far ahead of what is
// multiplied: weights depend on nothing, so memory stays busy while the other warps wait for each other's results.
//
// Blocks do not meet at barriers. A result that another operation reads is stored as 32-bit words, the number below and
// the number of the launch above, and who reads a word reads it until it is of this launch. So an operation begins one
// trip to the second-level cache after its operands were made. All blocks must be resident at once (one on each
// multiprocessor), and every block has rows of every matrix: a block that is at an operation knows that all others have
// ended the one before the last that it read.
//
// The rest is as in `few_rows_8`: weight rows eight at a time (a tile), columns in steps of 32 numbers divided among the
// warps, sums over warps in a fixed order. A row's result depends neither on the other rows nor on their number.

#if ELEMENT != 0

constexpr int MOST = 8;
// Columns of a tile that are copied and waited for together: a stage of the ring.
constexpr int STAGE_COLUMNS = 1024;
constexpr int STAGE_STEPS = STAGE_COLUMNS / 32;
// 64 bytes more than the columns: what eight lanes read together lies in different banks.
constexpr int ROW_BYTES = STAGE_COLUMNS * 2 + 64;
constexpr int STAGE_BYTES = 8 * ROW_BYTES;
// Numbers of the norm's weight in a stage.
constexpr int NORM_COLUMNS = 4096;
constexpr int DESCRIPTORS = 16;
constexpr int DESCRIPTORS_AHEAD = 4;
constexpr int DESCRIPTOR_BYTES = 256;
// Numbers of the result that a block finishes at a time.
constexpr int FINISHED = 128;
constexpr int BARRIER_BYTES = 512;

// As `Projection` in persistent.rs writes it.
struct Projection {
    int kind, k, normalise, wide;
    int n[4];
    const T* weight[4];
    const T* bias[4];
    unsigned* tagged[4];    // the result as words, or null
    void* out[4];           // or plain, or null
    Operand x, residual;
    const float* norm_weight;
    float norm_offset, norm_eps;
    int activation, unused;
};
static_assert(sizeof(Projection) <= DESCRIPTOR_BYTES && sizeof(Attention) <= DESCRIPTOR_BYTES, "descriptors");

// As `place_of` and `unit_count`.
__device__ __forceinline__ Place place_of(const Projection& op, int index) {
    Place place{0, index};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        if (place.matrix == i && place.row >= op.n[i]) {
            place.row -= op.n[i];
            place.matrix = i + 1;
        }
    }
    return place;
}
// A block's units: rows of all matrices, or pairs of a gate's and its partner's row.
struct Share {
    int begin, end, tiles;
    bool gated;

    __device__ __forceinline__ Share(const Projection& op) {
        gated = op.activation >= 0;
        long long units = gated ? op.n[0] : op.n[0] + op.n[1] + op.n[2] + op.n[3];
        begin = (int)(units * blockIdx.x / gridDim.x);
        end = (int)(units * (blockIdx.x + 1) / gridDim.x);
        tiles = ceil_div(end - begin, 8) << (gated ? 1 : 0);
    }
};
// The steps of a stage that belong to a warp.
__device__ __forceinline__ void steps_of(int k, int stage, int warp, int& first, int& last) {
    int steps = min(STAGE_STEPS, k / 32 - stage * STAGE_STEPS);
    first = steps * warp / WARPS;
    last = steps * (warp + 1) / WARPS;
}

// A place in the ring, and how often it was used before.
struct Cursor {
    int slot = 0;
    unsigned phase = 0;

    __device__ __forceinline__ void next(int stages) {
        if (++slot == stages) {
            slot = 0;
            phase ^= 1;
        }
    }
};

// Shared memory; `shared_bytes` in persistent.rs adds the same sizes.
struct Memory {
    unsigned ring, barriers;
    int stages;
    char *descriptors, *heads, *x;
    float *partials, *sums;

    __device__ __forceinline__ Memory(char* base, int stages, int head_bytes) : stages(stages) {
        ring = shared_address(base);
        descriptors = base + stages * STAGE_BYTES;
        partials = reinterpret_cast<float*>(descriptors + DESCRIPTORS * DESCRIPTOR_BYTES);
        sums = partials + 2 * WARPS * FINISHED;
        char* after = reinterpret_cast<char*>(sums + WARPS * MOST);
        barriers = shared_address(after);
        heads = after + BARRIER_BYTES;
        x = heads + WARPS * head_bytes;
    }
    __device__ __forceinline__ unsigned full(int slot) const { return barriers + slot * 8; }
    __device__ __forceinline__ unsigned empty(int slot) const { return barriers + (stages + slot) * 8; }
    __device__ __forceinline__ unsigned described(int op) const {
        return barriers + (2 * stages + op % DESCRIPTORS) * 8;
    }
    __device__ __forceinline__ unsigned forgotten(int op) const {
        return barriers + (2 * stages + DESCRIPTORS + op % DESCRIPTORS) * 8;
    }
    __device__ __forceinline__ char* descriptor(int op) const {
        return descriptors + op % DESCRIPTORS * DESCRIPTOR_BYTES;
    }
    static __device__ __forceinline__ unsigned parity(int op) { return op / DESCRIPTORS & 1; }
};

// The warp that copies.
struct Copier {
    const Memory& memory;
    Cursor cursor;
    u64 policy;
    int lane;

    __device__ __forceinline__ Copier(const Memory& memory) : memory(memory), policy(read_once()), lane(threadIdx.x & 31) {}

    // `rows` rows of `bytes` bytes, a lane's from `from`, into the next stage.
    __device__ __forceinline__ void stage(const void* from, int rows, int bytes) {
        unsigned full = memory.full(cursor.slot);
        barrier_wait(memory.empty(cursor.slot), cursor.phase ^ 1);
        if (lane == 0) barrier_expect(full, rows * bytes);
        __syncwarp();
        if (lane < rows) {
            copy_bulk(memory.ring + cursor.slot * STAGE_BYTES + lane * ROW_BYTES, from, bytes, full, policy);
        }
        cursor.next(memory.stages);
    }

    __device__ __forceinline__ void project(const Projection& op) {
        if (op.normalise && op.norm_weight) {
            for (int at = 0; at < op.k; at += NORM_COLUMNS) {
                stage(op.norm_weight + at, 1, min(NORM_COLUMNS, op.k - at) * 4);
            }
        }
        Share share(op);
        for (int tile = 0; tile < share.tiles; tile++) {
            int first = share.begin + (share.gated ? tile >> 1 : tile) * 8, rows = min(8, share.end - first);
            int unit = first + (lane < rows ? lane : 0);
            Place place = share.gated ? Place{tile & 1, unit} : place_of(op, unit);
            const T* row = pick(op.weight, place.matrix) + (long long)place.row * op.k;
            for (int at = 0; at < op.k; at += STAGE_COLUMNS) stage(row + at, rows, min(STAGE_COLUMNS, op.k - at) * 2);
        }
    }

    __device__ __forceinline__ void describe(const char* list, int op) {
        if (lane == 0) {
            barrier_wait(memory.forgotten(op), Memory::parity(op) ^ 1);
            barrier_expect(memory.described(op), DESCRIPTOR_BYTES);
            copy_bulk(shared_address(memory.descriptor(op)), list + (long long)op * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES,
                      memory.described(op), policy);
        }
        __syncwarp();
    }

    __device__ __forceinline__ void run(const char* list, int count, int rows, bool attends) {
        for (int op = 0; op < min(count, DESCRIPTORS_AHEAD); op++) describe(list, op);
        for (int op = 0; op < count; op++) {
            if (op + DESCRIPTORS_AHEAD < count) describe(list, op + DESCRIPTORS_AHEAD);
            barrier_wait(memory.described(op), Memory::parity(op));
            const char* at = memory.descriptor(op);
            if (*reinterpret_cast<const int*>(at) == 0) {
                project(*reinterpret_cast<const Projection*>(at));
            } else if (attends) {
                // Positions may come from the launch before.
                wait_for_predecessors();
                prefetch_cache(*reinterpret_cast<const Attention*>(at), rows);
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(memory.forgotten(op));
        }
    }
};

// One number of the result with what is added to it; read early, long before `finish`.
struct Sum {
    Place place;
    int row;
    float bias = 0.0f, partner_bias = 0.0f;
    unsigned residual = 0;
    long long at = 0;

    __device__ __forceinline__ Sum(const Projection& op, const Share& share, int row, int unit) : row(row) {
        place = share.gated ? Place{0, unit} : place_of(op, unit);
        at = (long long)row * pick(op.n, place.matrix) + place.row;
        const T* of = pick(op.bias, place.matrix);
        if (of) bias = to_float(of[place.row]);
        if (share.gated && op.bias[1]) partner_bias = to_float(op.bias[1][place.row]);
        if (op.residual.at) read_residual(op);
    }
    __device__ __forceinline__ void read_residual(const Projection& op) {
        residual = op.residual.tagged ? load_word(static_cast<const unsigned*>(op.residual.at) + at)
                                      : static_cast<const T*>(op.residual.at)[at].bits;
    }

    __device__ __forceinline__ void finish(const Projection& op, bool gated, const Turn& turn, float product, float partner) {
        float value = product + bias;
        if (gated) {
            float gate = to_float(from_float(value)), up = to_float(from_float(partner + partner_bias));
            value = activate(op.activation, gate) * up;
        }
        if (op.residual.at) {
            for (unsigned polls = 0; op.residual.tagged && turn.waits && residual >> 16 != turn.tag;) {
                read_residual(op);
                if (++polls == PATIENCE) give_up();
            }
            value += half_of(residual, 0);
        }
        if (op.wide >> place.matrix & 1) {
            static_cast<float*>(pick(op.out, place.matrix))[at] = value;
            return;
        }
        T result = from_float(value);
        unsigned* words = pick(op.tagged, place.matrix);
        if (words) store_word(words + at, turn.tag << 16 | result.bits);
        T* out = static_cast<T*>(pick(op.out, place.matrix));
        if (out) out[at] = result;
    }
};

// The warps that multiply.
struct Consumer {
    const Memory& memory;
    Cursor cursor;
    int rows, warp, lane, batch = 0;

    __device__ __forceinline__ Consumer(const Memory& memory, int rows)
        : memory(memory), rows(rows), warp(threadIdx.x >> 5), lane(threadIdx.x & 31) {}

    __device__ __forceinline__ void wait_for_stage() const { barrier_wait(memory.full(cursor.slot), cursor.phase); }
    __device__ __forceinline__ void release_stage() {
        __syncwarp();
        if (lane == 0) barrier_arrive(memory.empty(cursor.slot));
        cursor.next(memory.stages);
    }

    // This lane's four numbers of a stage's columns: the first one's column, or -1; and their place in shared memory, where
    // x lies as [step][row][4 packs] with packs swapped as `Rows::swapped` does: words at + 0 and at + 8.
    __device__ __forceinline__ int quad(int k, int stage, int row, unsigned& at) const {
        int first, last;
        steps_of(k, stage, warp, first, last);
        int step = stage * STAGE_STEPS + first + (lane >> 3);
        at = shared_address(memory.x) + ((step * rows + row) * 4 + (lane >> 1 & 3)) * 16 + (lane & 1) * 4;
        return lane < (last - first) * 8 ? step * 32 + (lane & 7) * 4 : -1;
    }

    // Waits for x and puts this warp's columns into shared memory.
    __device__ __forceinline__ void read_x(const Projection& op, const Turn& turn) const {
        constexpr int AHEAD = 8;
        int stages = ceil_div(op.k, STAGE_COLUMNS), all = rows * stages;
        for (int start = 0; start < all; start += AHEAD) {
            Quad quads[AHEAD];
            bool fresh;
            unsigned polls = 0, at;
            do {
                fresh = true;
#pragma unroll
                for (int i = 0; i < AHEAD; i++) {
                    if (start + i >= all) break;
                    int row = rows == 1 ? 0 : (start + i) / stages, column = quad(op.k, start + i - row * stages, row, at);
                    if (column >= 0) fresh &= load_quad(op.x, (long long)row * op.k + column, turn.tag, quads[i]);
                }
                if (++polls == PATIENCE) give_up();
            } while (turn.waits && !__all_sync(0xffffffffu, fresh));
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (start + i >= all) break;
                int row = rows == 1 ? 0 : (start + i) / stages;
                if (quad(op.k, start + i - row * stages, row, at) >= 0) {
                    write_shared_word(at, quads[i].low);
                    write_shared_word(at + 8, quads[i].high);
                }
            }
        }
    }

    // Normalises x in place, every lane what it wrote.
    __device__ __forceinline__ void normalise(const Projection& op) {
        int stages = ceil_div(op.k, STAGE_COLUMNS);
        for (int row = 0; row < rows; row++) {
            float sum = 0.0f;
            for (int stage = 0; stage < stages; stage++) {
                unsigned at;
                if (quad(op.k, stage, row, at) < 0) continue;
                unsigned low = read_shared_word(at), high = read_shared_word(at + 8);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    sum = fmaf(half_of(low, i), half_of(low, i), sum);
                    sum = fmaf(half_of(high, i), half_of(high, i), sum);
                }
            }
            sum = warp_sum(sum);
            if (lane == 0) memory.sums[warp * MOST + row] = sum;
        }
        consumers_meet();
        float scale = 0.0f;
        if (lane < rows) {
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; i++) sum += memory.sums[i * MOST + lane];
            scale = rsqrtf(sum * (1.0f / (float)op.k) + op.norm_eps);
        }
        bool weighted = op.norm_weight != nullptr;
        for (int stage = 0; stage < stages; stage++) {
            int inside = stage % (NORM_COLUMNS / STAGE_COLUMNS);
            if (weighted && inside == 0) wait_for_stage();
            unsigned at;
            int column = quad(op.k, stage, 0, at);
            float factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
            if (weighted && column >= 0) {
                uint4 bits = read_shared(memory.ring + cursor.slot * STAGE_BYTES + column % NORM_COLUMNS * 4);
                factor[0] = __uint_as_float(bits.x) + op.norm_offset;
                factor[1] = __uint_as_float(bits.y) + op.norm_offset;
                factor[2] = __uint_as_float(bits.z) + op.norm_offset;
                factor[3] = __uint_as_float(bits.w) + op.norm_offset;
            }
            for (int row = 0; row < rows; row++) {
                float times = __shfl_sync(0xffffffffu, scale, row);
                if (quad(op.k, stage, row, at) < 0) continue;
                unsigned low = read_shared_word(at), high = read_shared_word(at + 8);
                write_shared_word(at, round_pair(half_of(low, 0) * times * factor[0], half_of(low, 1) * times * factor[1]));
                write_shared_word(at + 8,
                                  round_pair(half_of(high, 0) * times * factor[2], half_of(high, 1) * times * factor[3]));
            }
            if (weighted && (inside == NORM_COLUMNS / STAGE_COLUMNS - 1 || stage == stages - 1)) release_stage();
        }
    }

    __device__ __forceinline__ void project(const Projection& op, const Turn& turn) {
        int g = lane >> 2, t = lane & 3, stages = ceil_div(op.k, STAGE_COLUMNS);
        Share share(op);
        bool gated = share.gated;
        int per_batch = FINISHED / 8 / rows;
        if (gated) per_batch &= ~1;
        int span = 8 * rows, group = threadIdx.x / span, inner = threadIdx.x - group * span;
        auto unit_of = [&](int start) { return share.begin + ((gated ? start >> 1 : start) + group) * 8 + (inner & 7); };
        auto has_one = [&](int start) {
            int count = min(per_batch, share.tiles - start);
            return group < (gated ? count >> 1 : count) && unit_of(start) < share.end;
        };
        bool mine = has_one(0);
        Sum result(op, share, mine ? inner >> 3 : 0, mine ? unit_of(0) : share.begin);
        read_x(op, turn);
        if (op.normalise) normalise(op);
        __syncwarp();

        // Lanes without a row read another's: what they multiply is never used.
        unsigned x_from = shared_address(memory.x) + (min(g, rows - 1) * 4 + t) * 16;
        for (int start = 0; start < share.tiles; start += per_batch) {
            int count = min(per_batch, share.tiles - start);
            if (start > 0) {
                mine = has_one(start);
                result = Sum(op, share, mine ? inner >> 3 : 0, mine ? unit_of(start) : share.begin);
            }
            float* partials = memory.partials + (batch & 1) * WARPS * FINISHED;
            for (int tile = 0; tile < count; tile++) {
                // Apart for even and odd steps and for the halves of the packs: products do not wait for each other.
                float low[2][4] = {}, high[2][4] = {};
                for (int stage = 0; stage < stages; stage++) {
                    int first, last;
                    steps_of(op.k, stage, warp, first, last);
                    wait_for_stage();
                    unsigned from = memory.ring + cursor.slot * STAGE_BYTES + g * ROW_BYTES + first * 64 + t * 16;
                    unsigned at = x_from + (stage * STAGE_STEPS + first) * rows * 64;
                    // One operand for both products: of `low` rows 0 to 7 count, of `high` rows 8 to 15.
                    auto multiply = [&](int u, uint4 w, uint4 x) {
                        const unsigned a[4] = {x.x, x.y, x.z, x.w};
                        multiply_add(low[u & 1], a, w.x, w.y);
                        multiply_add(high[u & 1], a, w.z, w.w);
                    };
                    if (last - first == 4) {
                        uint4 w[4], x[4];
#pragma unroll
                        for (int u = 0; u < 4; u++) {
                            w[u] = read_shared(from + u * 64);
                            x[u] = read_shared(at + u * rows * 64);
                        }
#pragma unroll
                        for (int u = 0; u < 4; u++) multiply(u, w[u], x[u]);
                    } else {
#pragma unroll
                        for (int u = 0; u < 3; u++) {
                            if (first + u < last) multiply(u, read_shared(from + u * 64), read_shared(at + u * rows * 64));
                        }
                    }
                    release_stage();
                }
                if (g < rows) {
                    float2 both;
                    both.x = (low[0][0] + low[1][0]) + (high[0][2] + high[1][2]);
                    both.y = (low[0][1] + low[1][1]) + (high[0][3] + high[1][3]);
                    *reinterpret_cast<float2*>(partials + warp * FINISHED + tile * span + g * 8 + 2 * t) = both;
                }
            }
            // The other half of `partials` is free again: who is here has finished with the batch before.
            consumers_meet();
            if (mine) {
                const float* from = partials + (gated ? 2 * group : group) * span + inner;
                float product = 0.0f, partner = 0.0f;
#pragma unroll
                for (int i = 0; i < WARPS; i++) product += from[i * FINISHED];
                if (gated) {
#pragma unroll
                    for (int i = 0; i < WARPS; i++) partner += from[i * FINISHED + span];
                }
                result.finish(op, gated, turn, product, partner);
            }
            batch++;
        }
    }
};

// `state`: the launch's number, and how many blocks have read it. `measure`: bit 0: no block waits for another (wrong
// results, the time of the copies); bit 1: zeros in place of attention.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1)
persistent_decode(const char* list, int count, int rows, unsigned* state, int stages, int head_bytes, int measure) {
    extern __shared__ __align__(128) char shared[];
    __shared__ unsigned number;
    Memory memory(shared, stages, head_bytes);
    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(memory.full(i), 1);
            barrier_init(memory.empty(i), WARPS);
        }
        for (int i = 0; i < DESCRIPTORS; i++) {
            barrier_init(memory.described(i), 1);
            barrier_init(memory.forgotten(i), WARPS + 1);
        }
        barriers_ready();
    }
    __syncthreads();
    bool attends = (measure & 2) == 0;
    if (threadIdx.x >= THREADS) {
        Copier(memory).run(list, count, rows, attends);
        return;
    }
    wait_for_predecessors();
    if (threadIdx.x == 0) {
        number = load_word(state);
        // Whoever counts last knows that all have read the number.
        if (count_arrival(state + 1, gridDim.x - 1) == gridDim.x - 1) store_word(state, number + 1);
    }
    consumers_meet();
    Turn turn{number & 0xffffu, 0, (measure & 1) == 0};
    Consumer consumer(memory, rows);
    for (int op = 0; op < count; op++) {
        barrier_wait(memory.described(op), Memory::parity(op));
        const char* at = memory.descriptor(op);
        turn.mark = (number << 12 | (unsigned)op) & 0xffffffffu;
        if (*reinterpret_cast<const int*>(at) == 0) {
            consumer.project(*reinterpret_cast<const Projection*>(at), turn);
        } else if (attends) {
            char* heads = memory.heads + (threadIdx.x >> 5) * head_bytes;
            attention(*reinterpret_cast<const Attention*>(at), rows, turn, heads, WARPS);
        } else {
            no_attention(*reinterpret_cast<const Attention*>(at), rows, turn, THREADS);
        }
        __syncwarp();
        if (consumer.lane == 0) barrier_arrive(memory.forgotten(op));
    }
}

#endif
