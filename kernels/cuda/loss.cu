// Cross entropy of rows of logits and the gradient of the logits; the place of the greatest number of a row. Logits are f32
// or T, all arithmetic is f32.
//
// A row of logits is long (up to some hundred thousand numbers), so its sum of exponentials is made in one pass, online.
// `cross_entropy_cluster` spreads rows over a cluster of 8 blocks that keep them in shared memory: logits are read from
// memory once, and those of the next row while this one is worked on. Where there are no clusters `cross_entropy` gives a
// row to one block, which reads it again for the gradient.

constexpr int UNIT = 8;  // logits of a thread's step
constexpr int CLUSTER = 8;
constexpr int ROWS = 4;    // of a cluster, one after the other
constexpr int SLOTS = 16;  // most stretches of rows in a block's shared memory
constexpr int WARPS = 15;  // most that compute
constexpr float LOG2_E = 1.4426950408889634f;
// Less than every finite logit, and finite: -inf less it is -inf, not NaN.
constexpr float LOWEST = -3.402823466e38f;

struct RowLoss {
    double loss;  // in nats, not weighted
    unsigned counted, correct;
};

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float finish(float logit, float cap) { return cap > 0.0f ? cap * tanhf(logit / cap) : logit; }

// A unit of finished logits.
template <typename U> __device__ __forceinline__ void read_unit(const U* from, float cap, float (&to)[UNIT]) {
    constexpr int N = PackOf<U>::N;
#pragma unroll
    for (int i = 0; i < UNIT; i += N) {
        PackOf<U> pack = load_pack(from + i);
#pragma unroll
        for (int j = 0; j < N; j++) to[i + j] = to_float(pack.at[j]);
    }
    if (cap > 0.0f) {
#pragma unroll
        for (int i = 0; i < UNIT; i++) to[i] = finish(to[i], cap);
    }
}

__device__ __forceinline__ void write_unit(T* to, const float (&from)[UNIT]) {
#pragma unroll
    for (int i = 0; i < UNIT; i += Pack::N) {
        Pack pack;
#pragma unroll
        for (int j = 0; j < Pack::N; j++) pack.at[j] = from_float(from[i + j]);
        store_pack(to + i, pack);
    }
}

// The greatest of the finished logits so far, the sum of e^(logit - greatest), and whether one before the target equals
// the target's.
struct Sums {
    float greatest = LOWEST, sum = 0.0f;
    bool earlier = false;

    template <int COUNT>
    __device__ __forceinline__ void add(const float (&x)[COUNT], int column, float at_target, int target) {
        float most = x[0];
#pragma unroll
        for (int i = 1; i < COUNT; i++) most = fmaxf(most, x[i]);
        if (most > greatest) {
            sum *= exp2_fast((greatest - most) * LOG2_E);
            greatest = most;
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) sum += exp2_fast((x[i] - greatest) * LOG2_E);
        if (most >= at_target && column < target) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) earlier |= x[i] == at_target && column + i < target;
        }
    }
};

// A row's target, and its logit; the caller checked it. One that is no token gives NaN, and nothing outside of the row is
// read.
struct Target {
    float weight, logit;
    int column;

    template <typename U>
    __device__ __forceinline__ void read(const U* logits, unsigned target, int vocab, float cap) {
        bool known = target < (unsigned)vocab;
        column = known ? (int)target : 0;
        logit = known ? finish(to_float(logits[column]), cap) : __int_as_float(0x7fc00000);
    }
};

// What follows from a row's sums.
struct Outcome {
    float greatest, sum, cap, factor;

    // scale = scale * weight * logit_scale.
    __device__ __forceinline__ Outcome(float greatest, float sum, float cap, float scale)
        : greatest(greatest), sum(sum), cap(cap), factor(scale / sum) {}

    // Of a logit; times the slope of the cap.
    __device__ __forceinline__ float gradient(float x) const {
        float value = factor * exp2_fast((x - greatest) * LOG2_E);
        if (cap > 0.0f) {
            float capped = x / cap;
            value *= 1.0f - capped * capped;
        }
        return value;
    }
    // Both terms are not negative: nothing cancels.
    __device__ __forceinline__ float loss(float logit) const { return logf(sum) + (greatest - logit); }
    // e^-loss - 1 as one function: a confident row's gradient is small, not rounded away.
    __device__ __forceinline__ float target_gradient(float logit) const {
        float capped = cap > 0.0f ? logit / cap : 0.0f;
        return factor * sum * (1.0f - capped * capped) * expm1f(-loss(logit));
    }
    __device__ __forceinline__ void write(const Target& target, bool earlier, float* per_row, RowLoss* result) const {
        float nats = loss(target.logit);
        *result = RowLoss{nats, 1u, target.logit == greatest && !earlier ? 1u : 0u};
        if (per_row) *per_row = nats;
    }
};

// One row of a block. Logits (already scaled) are rows of `stride` U and dlogits rows of `stride` T, 16-byte aligned, maybe
// the same memory if U is T. Without `scale` there are no gradients.
template <typename U>
__device__ __forceinline__ void entropy_of_row(const U* logits, long long stride, int vocab, const unsigned* targets,
                                               const float* weights, float cap, float logit_scale, const float* scale,
                                               T* dlogits, float* per_row, RowLoss* results) {
    __shared__ float shared[32];
    int row = blockIdx.x, units = vocab / UNIT, rest = vocab - units * UNIT;
    logits += row * stride;
    dlogits += row * stride;
    if (per_row) per_row += row;

    Target target;
    target.weight = weights[row];
    if (target.weight == 0.0f) {
        if (scale) {
            float zeros[UNIT] = {};
            for (int unit = threadIdx.x; unit < units; unit += blockDim.x) write_unit(dlogits + unit * UNIT, zeros);
            if (threadIdx.x < rest) dlogits[units * UNIT + threadIdx.x] = from_float(0.0f);
        }
        if (threadIdx.x == 0) {
            results[row] = RowLoss{0.0, 0, 0};
            if (per_row) *per_row = 0.0f;
        }
        return;
    }
    target.read(logits, targets[row], vocab, cap);

    Sums sums;
#pragma unroll 2
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
        float x[UNIT];
        read_unit(logits + unit * UNIT, cap, x);
        sums.add(x, unit * UNIT, target.logit, target.column);
    }
    int rest_column = units * UNIT + threadIdx.x;
    float rest_logit[1] = {LOWEST};
    if (threadIdx.x < rest) {
        rest_logit[0] = finish(to_float(logits[rest_column]), cap);
        sums.add(rest_logit, rest_column, target.logit, target.column);
    }
    float greatest = block_max(sums.greatest, shared);
    float sum = block_sum(sums.sum * exp2_fast((sums.greatest - greatest) * LOG2_E), shared);
    bool earlier = __syncthreads_or(sums.earlier);
    Outcome outcome(greatest, sum, cap, scale ? scale[0] * target.weight * logit_scale : 0.0f);
    if (threadIdx.x == 0) outcome.write(target, earlier, per_row, results + row);
    if (!scale) return;
#pragma unroll 2
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
        float x[UNIT];
        read_unit(logits + unit * UNIT, cap, x);
#pragma unroll
        for (int i = 0; i < UNIT; i++) x[i] = outcome.gradient(x[i]);
        write_unit(dlogits + unit * UNIT, x);
        if (unit == target.column / UNIT) dlogits[target.column] = from_float(outcome.target_gradient(target.logit));
    }
    if (threadIdx.x < rest) {
        float value = outcome.gradient(rest_logit[0]);
        if (rest_column == target.column) value = outcome.target_gradient(target.logit);
        dlogits[rest_column] = from_float(value);
    }
}

#define CROSS_ENTROPY(NAME, U)                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024)                                                                 \
        NAME(const U* logits, long long stride, int vocab, const unsigned* __restrict__ targets,                       \
             const float* __restrict__ weights, float cap, float logit_scale, const float* __restrict__ scale,         \
             T* dlogits, float* __restrict__ per_row, RowLoss* __restrict__ results) {                                 \
        entropy_of_row<U>(logits, stride, vocab, targets, weights, cap, logit_scale, scale, dlogits, per_row,          \
                          results);                                                                                    \
    }
CROSS_ENTROPY(cross_entropy, float)
CROSS_ENTROPY(cross_entropy_narrow, T)

#if __CUDA_ARCH__ >= 900
// Barriers in shared memory, by their addresses there.
__device__ __forceinline__ unsigned shared_address(const void* at) { return (unsigned)__cvta_generic_to_shared(at); }
__device__ __forceinline__ void barrier_start(unsigned barrier, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Barriers started before are seen by the whole cluster and by copies.
__device__ __forceinline__ void barriers_started() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ bool barrier_passed(unsigned barrier, unsigned parity) {
    unsigned passed;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(passed)
        : "r"(barrier), "r"(parity)
        : "memory");
    return passed;
}
__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    while (!barrier_passed(barrier, parity)) {
    }
}
// Arrives, and lets the barrier wait for `bytes` more.
__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Copies `bytes`, a multiple of 16, to shared memory.
__device__ __forceinline__ void copy_behind(unsigned barrier, unsigned to, const void* from, unsigned bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
                 : "memory");
}
// Writes 16 bytes to the place `to` of the cluster's block `rank`, whose barrier expects them.
__device__ __forceinline__ void send(unsigned rank, unsigned to, unsigned barrier, float4 value) {
    unsigned there, barrier_there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(to), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(barrier_there) : "r"(barrier), "r"(rank));
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(there),
        "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier_there)
        : "memory");
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait;" ::: "memory"); }

// A place in the ring of slots. Barriers of slots are waited for by the parity of the round.
struct Slot {
    int index = 0;
    unsigned parity;
    __device__ __forceinline__ Slot(unsigned first_parity) : parity(first_parity) {}
    __device__ __forceinline__ void next(int slots) {
        if (++index == slots) {
            index = 0;
            parity ^= 1;
        }
    }
};

// `f32 [4]` as float4, and which half of a unit of f32 is read first: so that threads meet no bank conflicts.
__device__ __forceinline__ void read_held(const float* from, float cap, float (&to)[UNIT]) {
    bool swapped = threadIdx.x & 4;
    PackOf<float> one = load_pack(from + (swapped ? 4 : 0)), two = load_pack(from + (swapped ? 0 : 4));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[i] = swapped ? two.at[i] : one.at[i];
        to[4 + i] = swapped ? one.at[i] : two.at[i];
    }
    if (cap > 0.0f) {
#pragma unroll
        for (int i = 0; i < UNIT; i++) to[i] = finish(to[i], cap);
    }
}
template <typename U> __device__ __forceinline__ void read_held(const U* from, float cap, float (&to)[UNIT]) {
    read_unit(from, cap, to);
}

// ROWS rows of a cluster; each block has an eighth of each, in stretches of a unit for every computing thread. The last warp
// only copies: into the next free slot, as soon as it is free. Operands as in `entropy_of_row`, with gradients.
template <typename U>
__device__ __forceinline__ void entropy_of_cluster(const U* logits, long long stride, int vocab, int rows, int slots,
                                                   const unsigned* targets, const float* weights, float cap,
                                                   float logit_scale, const float* scale, T* dlogits, float* per_row,
                                                   RowLoss* results) {
    __shared__ unsigned long long full[SLOTS], empty[SLOTS], received[2];
    // By turns, so that a row's are read before the one after the next sends its own.
    __shared__ float4 sums_of_warps[2][CLUSTER * WARPS];
    __shared__ Target target_of_row[ROWS];
    extern __shared__ __align__(128) unsigned char ring[];
    int threads = blockDim.x - 32, warps = threads / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int rank = blockIdx.x % CLUSTER, first_row = blockIdx.x / CLUSTER * ROWS, count = min(ROWS, rows - first_row);
    int units = vocab / UNIT, share = (units + CLUSTER - 1) / CLUSTER;
    int first = min(rank * share, units), size = min(first + share, units) - first;
    unsigned slot_bytes = threads * UNIT * sizeof(U);

    if (warp == warps) {
        if (lane == 0) {
            for (int i = 0; i < slots; i++) {
                barrier_start(shared_address(&full[i]), 1);
                barrier_start(shared_address(&empty[i]), warps);
            }
            for (int i = 0; i < 2; i++) barrier_start(shared_address(&received[i]), 1);
            barriers_started();
        }
        cluster_arrive();
        if (lane == 0) {
            float next_weight = weights[first_row];
            Slot slot(1);  // the slots are empty
            for (int i = 0; i < count; i++) {
                float weight = next_weight;
                if (i + 1 < count) next_weight = weights[first_row + i + 1];
                if (weight == 0.0f) continue;
                const U* from = logits + (first_row + i) * stride + first * UNIT;
                for (int begin = 0; begin < size; begin += threads) {
                    barrier_wait(shared_address(&empty[slot.index]), slot.parity);
                    unsigned bytes = min(threads, size - begin) * UNIT * (int)sizeof(U);
                    barrier_expect(shared_address(&full[slot.index]), bytes);
                    copy_behind(shared_address(&full[slot.index]), shared_address(ring + slot.index * slot_bytes),
                                from + begin * UNIT, bytes);
                    slot.next(slots);
                }
            }
        }
        cluster_wait();
        return;
    }

    if (threadIdx.x < count) {
        long long row = first_row + threadIdx.x;
        Target target = {};
        target.weight = weights[row];
        if (target.weight != 0.0f) target.read(logits + row * stride, targets[row], vocab, cap);
        target_of_row[threadIdx.x] = target;
    }
    cluster_arrive();
    cluster_wait();

    // What is left of a row after whole units belongs to the last block.
    int rest_column = units * UNIT + threadIdx.x;
    bool rest = rank == CLUSTER - 1 && rest_column < vocab;
    Slot start(0);
    unsigned turn = 0;
    for (int i = 0; i < count; i++) {
        Target target = target_of_row[i];
        long long row = first_row + i;
        T* to = dlogits + row * stride;
        bool writes = rank == 0 && threadIdx.x == 0;
        if (target.weight == 0.0f) {
            float zeros[UNIT] = {};
            for (int unit = threadIdx.x; unit < size; unit += threads) write_unit(to + (first + unit) * UNIT, zeros);
            if (rest) to[rest_column] = from_float(0.0f);
            if (writes) {
                results[row] = RowLoss{0.0, 0, 0};
                if (per_row) per_row[row] = 0.0f;
            }
            continue;
        }
        float rest_logit[1] = {LOWEST};
        if (rest) rest_logit[0] = finish(to_float(logits[row * stride + rest_column]), cap);

        Sums sums;
        Slot slot = start;
        for (int unit = threadIdx.x; unit - (int)threadIdx.x < size; unit += threads) {
            barrier_wait(shared_address(&full[slot.index]), slot.parity);
            if (unit < size) {
                float x[UNIT];
                read_held(reinterpret_cast<const U*>(ring + slot.index * slot_bytes) + threadIdx.x * UNIT, cap, x);
                sums.add(x, (first + unit) * UNIT, target.logit, target.column);
            }
            slot.next(slots);
        }
        if (rest) sums.add(rest_logit, rest_column, target.logit, target.column);

        float greatest = warp_max(sums.greatest);
        float sum = warp_sum(sums.sum * exp2_fast((sums.greatest - greatest) * LOG2_E));
        bool earlier = __any_sync(0xffffffffu, sums.earlier);
        float4* received_sums = sums_of_warps[turn & 1];
        if (threadIdx.x == 0) barrier_expect(shared_address(&received[turn & 1]), CLUSTER * warps * 16);
        if (lane < CLUSTER) {
            send(lane, shared_address(&received_sums[rank * warps + warp]), shared_address(&received[turn & 1]),
                 make_float4(greatest, sum, earlier ? 1.0f : 0.0f, 0.0f));
        }
        barrier_wait(shared_address(&received[turn & 1]), turn >> 1 & 1);
        turn++;
        // Every warp adds the sums of all warps in the same order.
        float most = LOWEST, total = 0.0f;
        for (int other = lane; other < CLUSTER * warps; other += 32) most = fmaxf(most, received_sums[other].x);
        most = warp_max(most);
        for (int other = lane; other < CLUSTER * warps; other += 32) {
            float4 part = received_sums[other];
            total += part.y * exp2_fast((part.x - most) * LOG2_E);
            earlier |= part.z != 0.0f;
        }
        earlier = __any_sync(0xffffffffu, earlier);
        Outcome outcome(most, warp_sum(total), cap, scale[0] * target.weight * logit_scale);

        slot = start;
        for (int unit = threadIdx.x; unit - (int)threadIdx.x < size; unit += threads) {
            float x[UNIT];
            if (unit < size)
                read_held(reinterpret_cast<const U*>(ring + slot.index * slot_bytes) + threadIdx.x * UNIT, cap, x);
            __syncwarp();
            if (lane == 0) barrier_arrive(shared_address(&empty[slot.index]));
            if (unit < size) {
#pragma unroll
                for (int j = 0; j < UNIT; j++) x[j] = outcome.gradient(x[j]);
                write_unit(to + (first + unit) * UNIT, x);
            }
            slot.next(slots);
        }
        start = slot;
        if (rest) to[rest_column] = from_float(outcome.gradient(rest_logit[0]));
        // By the thread that wrote the target's unit.
        int unit = target.column / UNIT - first;
        bool own = target.column >= units * UNIT ? rest && rest_column == target.column
                                                 : unit >= 0 && unit < size && unit % threads == (int)threadIdx.x;
        if (own) to[target.column] = from_float(outcome.target_gradient(target.logit));
        if (writes) outcome.write(target, earlier, per_row ? per_row + row : nullptr, results + row);
    }
}

#define CROSS_ENTROPY_CLUSTER(NAME, U)                                                                                 \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(WARPS * 32 + 32, 2)                   \
        NAME(const U* logits, long long stride, int vocab, int rows, int slots, const unsigned* __restrict__ targets,  \
             const float* __restrict__ weights, float cap, float logit_scale, const float* __restrict__ scale,         \
             T* dlogits, float* __restrict__ per_row, RowLoss* __restrict__ results) {                                 \
        entropy_of_cluster<U>(logits, stride, vocab, rows, slots, targets, weights, cap, logit_scale, scale, dlogits,  \
                              per_row, results);                                                                       \
    }
CROSS_ENTROPY_CLUSTER(cross_entropy_cluster, float)
CROSS_ENTROPY_CLUSTER(cross_entropy_cluster_narrow, T)
#endif

__device__ __forceinline__ double block_sum_double(double x, double* shared) {
    __syncthreads();
    shared[threadIdx.x] = x;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    return shared[0];
}

// sums += (weighted loss, weight, correct, counted) over all rows, by one block of 1024 threads.
extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_sums(const RowLoss* __restrict__ results, const float* __restrict__ weights, int rows, double* sums) {
    __shared__ double shared[1024];
    double loss = 0.0, weight = 0.0, correct = 0.0, counted = 0.0;
    for (int row = threadIdx.x; row < rows; row += 1024) {
        RowLoss result = results[row];
        if (result.counted) {
            loss += (double)weights[row] * result.loss;
            weight += weights[row];
            correct += result.correct;
            counted += 1.0;
        }
    }
    loss = block_sum_double(loss, shared);
    weight = block_sum_double(weight, shared);
    correct = block_sum_double(correct, shared);
    counted = block_sum_double(counted, shared);
    if (threadIdx.x == 0) {
        sums[0] += loss;
        sums[1] += weight;
        sums[2] += correct;
        sums[3] += counted;
    }
}

// A number and its place. The greater comes first, of equal ones the earlier.
struct Best {
    float value;
    unsigned index;

    __device__ __forceinline__ void take(float other, unsigned place) {
        if (other > value || (other == value && place < index)) {
            value = other;
            index = place;
        }
    }
};

__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        float value = __shfl_xor_sync(0xffffffffu, best.value, offset);
        unsigned index = __shfl_xor_sync(0xffffffffu, best.index, offset);
        best.take(value, index);
    }
    return best;
}

constexpr unsigned NOWHERE = 0xffffffffu;
#define NO_BEST Best{__int_as_float(0xff800000), NOWHERE}

// The best of numbers [blockIdx.y * share, + share) of row blockIdx.x; with one share a row straight to `out`.
template <int V>
__device__ __forceinline__ void best_of_share(const T* x, int vocab, int share, Best* bests, unsigned* out) {
    __shared__ Best of_warps[32];
    x += (long long)blockIdx.x * vocab;
    int first = blockIdx.y * share, last = min(first + share, vocab);
    Best best = NO_BEST;
    for (int column = first + threadIdx.x * V; column < last; column += blockDim.x * V) {
        if constexpr (V == 1) {
            best.take(to_float(x[column]), column);
        } else {
            Pack pack = load_pack(x + column);
#pragma unroll
            for (int i = 0; i < V; i++) best.take(to_float(pack.at[i]), column + i);
        }
    }
    best = best_of_warp(best);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0) of_warps[warp] = best;
    __syncthreads();
    if (warp > 0) return;
    best = best_of_warp(lane < blockDim.x / 32 ? of_warps[lane] : NO_BEST);
    if (lane > 0) return;
    if (gridDim.y > 1) {
        bests[(long long)blockIdx.x * gridDim.y + blockIdx.y] = best;
    } else {
        out[blockIdx.x] = best.index == NOWHERE ? 0 : best.index;
    }
}

extern "C" __global__ void __launch_bounds__(512)
    argmax(const T* __restrict__ x, int vocab, int share, Best* __restrict__ bests, unsigned* __restrict__ out) {
    best_of_share<Pack::N>(x, vocab, share, bests, out);
}
extern "C" __global__ void __launch_bounds__(512)
    argmax_any(const T* __restrict__ x, int vocab, int share, Best* __restrict__ bests, unsigned* __restrict__ out) {
    best_of_share<1>(x, vocab, share, bests, out);
}

// The best of a row's shares, by one warp a row.
extern "C" __global__ void __launch_bounds__(32)
    argmax_finish(const Best* __restrict__ bests, int shares, unsigned* __restrict__ out) {
    bests += (long long)blockIdx.x * shares;
    Best best = NO_BEST;
    for (int share = threadIdx.x; share < shares; share += 32) best.take(bests[share].value, bests[share].index);
    best = best_of_warp(best);
    if (threadIdx.x == 0) out[blockIdx.x] = best.index == NOWHERE ? 0 : best.index;
}
