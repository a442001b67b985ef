// Products of few rows with matrices, as in decoding: out[rows, n] = x[rows, k] w[n, k]^T for up to 16 rows, bound by
// reading the weights once. Up to four matrices share x. For 16-bit types and rows of whole 16-byte packs. Behind
// `tensor_core.cuh` and `decode.cuh`.
//
// The kernels are links of a chain of dependent launches. Until `griddepcontrol.wait` a kernel reads parameters only, and
// it writes nothing, so it may start while its predecessors still run: it fills its shared memory with weights meanwhile,
// and what follows the wait is short. No pointer is __restrict__: such loads may be moved above the wait.
//
// A block owns a range of weight rows and takes them eight at a time (a tile), up to GROUP tiles together. One warp copies:
// stages of a tile's rows and up to STEPS * 256 of their columns go through a ring, column after column of the group's
// tiles, so that eight other warps read their part of x once for all of them. Those warps divide k in steps of 32 numbers,
// every eighth step to a warp. In a step lane (g, t) = (lane / 4, lane % 4) multiplies 8 consecutive numbers of weight
// row g. Two products on the tensor cores multiply them with the same 8 columns of x, the first four and the last four:
// which of a product's summands stands where does not matter as long as both operands agree. Tiles are summed over the
// warps in a fixed order. A row's result does not depend on the other rows, nor on their number.
//
// x lies in shared memory as a whole, or, where it does not fit, its columns are copied beside the weights'.

// Tiles that are multiplied together.
constexpr int GROUP = 4;
// Slots of x where it is copied beside the weights.
constexpr int X_SLOTS = 2;
// Most stages of the ring.
constexpr int MOST_STAGES = 8;
// Two for each stage and slot of x: full and empty.
constexpr int BARRIER_BYTES = (MOST_STAGES + X_SLOTS) * 2 * 8;

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

// Barriers in shared memory on which copies arrive. Where copies of many bytes exist, one thread announces how many bytes
// will come; elsewhere the arrivals of all lanes' small copies are counted.
#if __CUDA_ARCH__ >= 900
constexpr int COPY_ARRIVALS = 1;
#else
constexpr int COPY_ARRIVALS = 32;
#endif
__device__ __forceinline__ void barrier_create(unsigned barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes new barriers known to copies.
__device__ __forceinline__ void barriers_created() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}
// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    unsigned done;
    do {
#if __CUDA_ARCH__ >= 900
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#else
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#endif
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}
// A whole warp: lane i copies `bytes` from its `from`, if any, to `to + i * pitch`; they arrive at the barrier.
__device__ __forceinline__ void copy_rows(unsigned to, int pitch, const T* from, int bytes, unsigned barrier) {
    int lane = threadIdx.x & 31;
#if __CUDA_ARCH__ >= 900
    int rows = __popc(__ballot_sync(0xffffffffu, from != nullptr));
    if (lane == 0) {
        asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared.b64 state, [%0], %1; }" ::"r"(barrier),
                     "r"(rows * bytes)
                     : "memory");
    }
    __syncwarp();
    if (from) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         to + lane * pitch),
                     "l"(from), "r"(bytes), "r"(barrier)
                     : "memory");
    }
#else
    for (int row = 0; row < MOST_ROWS; row++) {
        auto source = reinterpret_cast<const T*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(from), row));
        if (!source) continue;
        for (int at = lane * 16; at < bytes; at += 512) copy_async(to + row * pitch + at, source + at / 2, true);
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}
// Of the warps that multiply.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// Goes round a ring of barriers: `full` of each, then `empty` of each.
struct Turn {
    unsigned barriers;
    int most, depth;
    int slot = 0;
    unsigned parity = 0;

    __device__ __forceinline__ Turn(unsigned barriers, int most, int depth) : barriers(barriers), most(most), depth(depth) {}
    __device__ __forceinline__ unsigned full() const { return barriers + slot * 8; }
    __device__ __forceinline__ unsigned empty() const { return barriers + (most + slot) * 8; }
    __device__ __forceinline__ void next() {
        if (++slot == depth) {
            slot = 0;
            parity ^= 1;
        }
    }
    // One warp of those that use the slot is done with it.
    __device__ __forceinline__ void release() const {
        __syncwarp();
        if ((threadIdx.x & 31) == 0) barrier_arrive(empty());
    }
};

// What a block does, and where: as `Plan` in decode.rs adds it up.
template <int STEPS> struct Block {
    // Of a stage, and from one of its rows to the next: rows of eight lanes lie in different banks.
    static constexpr int COLUMNS = STEPS * WARPS * 32, PITCH = COLUMNS * 2 + 64, STAGE_BYTES = 8 * PITCH;

    const Work& work;
    int begin, end, tiles, chunks, depth;
    bool gated, streamed;
    unsigned barriers, ring, x;
    // From a row of x to the next.
    int pitch;
    float *sums, *norm_weight, *partials;

    __device__ __forceinline__ Block(const Work& work, int depth, bool streamed, unsigned char* shared)
        : work(work), depth(depth), gated(work.activation >= 0), streamed(streamed) {
        long long units = unit_count(work);
        begin = (int)(units * blockIdx.x / gridDim.x), end = (int)(units * (blockIdx.x + 1) / gridDim.x);
        tiles = ceil_div(end - begin, 8) << (gated ? 1 : 0);
        chunks = ceil_div(work.k, COLUMNS);
        int steps = ceil_div(work.k, 32);
        bool weighted = work.normalise && work.norm_weight;
        pitch = streamed ? PITCH : (steps | 1) * 64;
        ring = shared_address(shared);
        sums = reinterpret_cast<float*>(shared + depth * STAGE_BYTES);
        norm_weight = sums + WARPS * MOST_ROWS;
        partials = norm_weight + (weighted ? steps * 32 : 0);
        barriers = shared_address(partials + partial_buffers() * WARPS * partial_size());
        x = barriers + BARRIER_BYTES;
    }
    // Sums of a group of tiles from one warp. Two buffers of them save a barrier.
    __device__ __forceinline__ int partial_size() const { return GROUP * 8 * work.rows; }
    __device__ __forceinline__ int partial_buffers() const { return work.rows <= 8 ? 2 : 1; }
    __device__ __forceinline__ Turn stages() const { return Turn(barriers, MOST_STAGES, depth); }
    __device__ __forceinline__ Turn x_slots() const { return Turn(barriers + MOST_STAGES * 16, X_SLOTS, X_SLOTS); }

    // One lane.
    __device__ __forceinline__ void create_barriers() const {
        for (int i = 0; i < MOST_STAGES + X_SLOTS; i++) {
            bool stage = i < MOST_STAGES;
            unsigned full = barriers + (stage ? i : MOST_STAGES * 2 + i - MOST_STAGES) * 8;
            barrier_create(full, COPY_ARRIVALS);
            barrier_create(full + (stage ? MOST_STAGES : X_SLOTS) * 8, WARPS);
        }
        barriers_created();
    }

    // The warp that copies: weights, and x behind a group's columns of them. Those of the first group fit in the ring, so
    // that nothing waits for x before it is copied.
    __device__ __forceinline__ void copy() const {
        int lane = threadIdx.x & 31;
        Turn turn = stages(), x_turn = x_slots();
        for (int start = 0; start < tiles; start += GROUP) {
            const T* from[GROUP];
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                int tile = start + i, unit = begin + (gated ? tile >> 1 : tile) * 8 + lane;
                from[i] = nullptr;
                if (lane >= 8 || tile >= tiles || unit >= end) continue;
                Place place = gated ? Place{tile & 1, unit} : place_of(work, unit);
                from[i] = pick(work.weight, place.matrix) + (long long)place.row * work.k;
            }
            for (int chunk = 0; chunk < chunks; chunk++) {
                int bytes = min(COLUMNS, work.k - chunk * COLUMNS) * 2;
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    if (start + i >= tiles) break;
                    barrier_wait(turn.empty(), turn.parity ^ 1);
                    const T* source = from[i] ? from[i] + chunk * COLUMNS : nullptr;
                    copy_rows(ring + turn.slot * STAGE_BYTES, PITCH, source, bytes, turn.full());
                    turn.next();
                }
                if (!streamed) continue;
                if (start == 0 && chunk == 0) wait_for_predecessors();
                barrier_wait(x_turn.empty(), x_turn.parity ^ 1);
                const T* row = lane < work.rows ? work.x + (long long)lane * work.k + chunk * COLUMNS : nullptr;
                copy_rows(x + x_turn.slot * work.rows * PITCH, PITCH, row, bytes, x_turn.full());
                x_turn.next();
            }
        }
    }

    // The i-th 16-byte pack of those that this lane copies and normalises, the warp's own; its first number.
    __device__ __forceinline__ int own_column(int i) const {
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        return ((i * 8 + (lane >> 2)) * WARPS + warp) * 32 + (lane & 3) * 8;
    }

    // Copies the warp's part of x to shared memory.
    __device__ __forceinline__ void read_x() const {
        for (int row = 0; row < work.rows; row++) {
            const T* from = work.x + (long long)row * work.k;
            for (int i = 0; own_column(i) < work.k; i++) {
                copy_async(x + row * pitch + own_column(i) * 2, from + own_column(i), true);
            }
        }
        copy_async_commit();
        copy_async_wait<0>();
        __syncwarp();
    }

    // Sums of squares of the warp's part of ROWS rows from `first` on, at once.
    template <int ROWS> __device__ __forceinline__ void sum_squares(int first) const {
        float sum[ROWS] = {};
        for (int i = 0; own_column(i) < work.k; i++) {
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                uint4 bits = read_shared(x + min(first + j, work.rows - 1) * pitch + own_column(i) * 2);
                const Pack& pack = reinterpret_cast<const Pack&>(bits);
#pragma unroll
                for (int n = 0; n < Pack::N; n++) sum[j] = fmaf(to_float(pack.at[n]), to_float(pack.at[n]), sum[j]);
            }
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset >>= 1) {
#pragma unroll
            for (int j = 0; j < ROWS; j++) sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], offset);
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            if ((threadIdx.x & 31) == 0 && first + j < work.rows) sums[(threadIdx.x >> 5) * MOST_ROWS + first + j] = sum[j];
        }
    }

    // The warp's part of ROWS rows from `first` on times their scales, of which lane i has row i's, and the norm's weight.
    template <int ROWS> __device__ __forceinline__ void scale_rows(int first, float scale) const {
        float scales[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) scales[j] = __shfl_sync(0xffffffffu, scale, first + j);
        for (int i = 0; own_column(i) < work.k; i++) {
            float factor[Pack::N];
#pragma unroll
            for (int n = 0; n < Pack::N; n++) {
                factor[n] = work.norm_weight ? norm_weight[own_column(i) + n] + work.norm_offset : 1.0f;
            }
            uint4 bits[ROWS];
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                bits[j] = read_shared(x + min(first + j, work.rows - 1) * pitch + own_column(i) * 2);
            }
#pragma unroll
            for (int j = 0; j < ROWS; j++) {
                if (first + j >= work.rows) break;
                Pack& pack = reinterpret_cast<Pack&>(bits[j]);
#pragma unroll
                for (int n = 0; n < Pack::N; n++) pack.at[n] = from_float(to_float(pack.at[n]) * scales[j] * factor[n]);
                write_shared(x + (first + j) * pitch + own_column(i) * 2, bits[j]);
            }
        }
    }

    // Normalises x in shared memory: every warp its part.
    __device__ __forceinline__ void normalise() const {
        if (work.rows == 1) {
            sum_squares<1>(0);
        } else {
            for (int row = 0; row < work.rows; row += 8) sum_squares<8>(row);
        }
        meet();
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += sums[i * MOST_ROWS + min((int)threadIdx.x & 31, work.rows - 1)];
        float scale = rsqrtf(sum * (1.0f / (float)work.k) + work.norm_eps);
        if (work.rows == 1) {
            scale_rows<1>(0, scale);
        } else {
            for (int row = 0; row < work.rows; row += 4) scale_rows<4>(row, scale);
        }
        __syncwarp();
    }

    // The warps that multiply. HALVES: whether there are more than eight rows.
    template <int HALVES> __device__ __forceinline__ void multiply() const {
        int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, rows = work.rows;
        // The results of a group of tiles that this thread finishes. A gate's tile and its partner's follow each other.
        int span = 8 * rows, at_group[HALVES], at_inner[HALVES];
#pragma unroll
        for (int i = 0; i < HALVES; i++) {
            at_group[i] = ((int)threadIdx.x + i * THREADS) / span;
            at_inner[i] = (int)threadIdx.x + i * THREADS - at_group[i] * span;
        }
        // Lanes without a row of x read another's: what they multiply is never used.
        unsigned offset = warp * 64 + t * 16, low_row = min(g, rows - 1) * pitch + offset;
        unsigned high_row = min(g + 8, rows - 1) * pitch + offset, weight_row = ring + g * PITCH + offset;
        Turn turn = stages(), x_turn = x_slots();
        float* buffer = partials;
        for (int start = 0; start < tiles; start += GROUP) {
            int count = min(GROUP, tiles - start), groups = gated ? count >> 1 : count;
            bool mine[HALVES];
            Result results[HALVES];
#pragma unroll
            for (int i = 0; i < HALVES; i++) {
                int unit = begin + ((gated ? start >> 1 : start) + at_group[i]) * 8 + (at_inner[i] & 7);
                mine[i] = at_group[i] < groups && unit < end;
                // More would take too many registers.
                if (HALVES == 1 && mine[i]) results[i] = Result(work, at_inner[i] >> 3, unit);
            }
            // Apart for the halves of the packs: products do not wait for each other.
            float first[GROUP][4] = {}, last[GROUP][4] = {};
            for (int chunk = 0; chunk < chunks; chunk++) {
                unsigned from = x + (streamed ? x_turn.slot * rows * PITCH : chunk * COLUMNS * 2);
                bool full = (chunk + 1) * COLUMNS <= work.k;
                // Numbers from this lane's first one to the row's end.
                int left = work.k - chunk * COLUMNS - warp * 32 - t * 8;
                if (streamed) barrier_wait(x_turn.full(), x_turn.parity);
                unsigned a[STEPS][4 * HALVES];
#pragma unroll
                for (int u = 0; u < STEPS; u++) {
                    uint4 low = make_uint4(0, 0, 0, 0), high = low;
                    if (full || u * WARPS * 32 < left) {
                        low = read_shared(from + low_row + u * WARPS * 64);
                        if constexpr (HALVES == 2) high = read_shared(from + high_row + u * WARPS * 64);
                    }
                    if constexpr (HALVES == 1) {
                        // One operand for both products: of `first` rows 0 to 7 count, of `last` rows 8 to 15.
                        a[u][0] = low.x, a[u][1] = low.z, a[u][2] = low.y, a[u][3] = low.w;
                    } else {
                        a[u][0] = low.x, a[u][1] = high.x, a[u][2] = low.y, a[u][3] = high.y;
                        a[u][4] = low.z, a[u][5] = high.z, a[u][6] = low.w, a[u][7] = high.w;
                    }
                }
                if (streamed) {
                    x_turn.release();
                    x_turn.next();
                }
#pragma unroll
                for (int tile = 0; tile < GROUP; tile++) {
                    if (tile >= count) break;
                    barrier_wait(turn.full(), turn.parity);
                    unsigned at = weight_row + turn.slot * STAGE_BYTES;
                    uint4 w[STEPS];
                    if (full) {
#pragma unroll
                        for (int u = 0; u < STEPS; u++) w[u] = read_shared(at + u * WARPS * 64);
                    } else {
#pragma unroll
                        for (int u = 0; u < STEPS; u++) {
                            w[u] = u * WARPS * 32 < left ? read_shared(at + u * WARPS * 64) : make_uint4(0, 0, 0, 0);
                        }
                    }
                    turn.release();
                    turn.next();
#pragma unroll
                    for (int u = 0; u < STEPS; u++) {
                        const unsigned(&second)[4] = reinterpret_cast<const unsigned(&)[4]>(a[u][4 * (HALVES - 1)]);
                        multiply_add(first[tile], reinterpret_cast<const unsigned(&)[4]>(a[u][0]), w[u].x, w[u].y);
                        multiply_add(last[tile], second, w[u].z, w[u].w);
                    }
                }
            }
            float* to = buffer + warp * partial_size() + 2 * t;
#pragma unroll
            for (int tile = 0; tile < GROUP; tile++) {
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    int row = g + 8 * half, c = 2 * half, d = HALVES == 1 ? 2 : c;
                    if (tile >= count || row >= rows) continue;
                    float2 both;
                    both.x = first[tile][c] + last[tile][d];
                    both.y = first[tile][c + 1] + last[tile][d + 1];
                    *reinterpret_cast<float2*>(to + tile * span + row * 8) = both;
                }
            }
            meet();
#pragma unroll
            for (int i = 0; i < HALVES; i++) {
                if (!mine[i]) continue;
                int unit = begin + ((gated ? start >> 1 : start) + at_group[i]) * 8 + (at_inner[i] & 7);
                if (HALVES == 2) results[i] = Result(work, at_inner[i] >> 3, unit);
                const float* from = buffer + (gated ? 2 * at_group[i] : at_group[i]) * span + at_inner[i];
                float product = 0.0f, partner = 0.0f;
#pragma unroll
                for (int j = 0; j < WARPS; j++) product += from[j * partial_size()];
                if (gated) {
#pragma unroll
                    for (int j = 0; j < WARPS; j++) partner += from[j * partial_size() + span];
                }
                results[i].finish(work, product, partner);
            }
            if (partial_buffers() == 1) {
                meet();
            } else {
                buffer = partials + (buffer == partials ? WARPS * partial_size() : 0);
            }
        }
    }
};

// `depth` stages of the ring, at least GROUP if x is streamed. x is `streamed` beside the weights, never if it is normalised.
template <int HALVES, int STEPS> __device__ __forceinline__ void few_rows(const Work& work, int depth, bool streamed) {
    extern __shared__ __align__(128) unsigned char shared[];
    Block<STEPS> block(work, depth, streamed, shared);
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (warp < WARPS && work.normalise && work.norm_weight) {
        for (int i = 0; block.own_column(i) < work.k; i++) {
            int column = block.own_column(i);
            copy_async(shared_address(block.norm_weight + column), work.norm_weight + column, true);
            copy_async(shared_address(block.norm_weight + column + 4), work.norm_weight + column + 4, true);
        }
    }
    if (warp == WARPS && lane == 0) block.create_barriers();
    __syncthreads();
    launch_dependents();
    if (warp == WARPS) {
        block.copy();
        return;
    }
    wait_for_predecessors();
    if (!streamed) block.read_x();
    if (work.normalise) block.normalise();
    block.template multiply<HALVES>();
}

#define FEW_ROWS(ROWS, STEPS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS + 32, 2)                                                      \
        few_rows_##ROWS##_##STEPS(WORK_PARAMETERS, int depth, int streamed) {                                          \
        few_rows<ROWS / 8, STEPS>(WORK, depth, streamed != 0);                                                         \
    }
FEW_ROWS(8, 4)
FEW_ROWS(8, 5)
FEW_ROWS(16, 4)
