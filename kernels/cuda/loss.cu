// Cross entropy of rows of f32 logits and the gradient of the logits; the place of the greatest number of a row.
//
// A row of logits is long (up to some hundred thousand numbers), so its sum of exponentials is made in one pass, online.
// `cross_entropy_cluster` gives a row to a cluster of 8 blocks that keep it in shared memory: logits are read from memory
// once. Where there are no clusters `cross_entropy` gives it to one block, which reads it again for the gradient.

constexpr int UNIT = 8;  // logits of a thread's step: two loads, and one store of 16-bit numbers
constexpr int CLUSTER = 8;
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

// The second four numbers lie `apart` from the first: 4 in a row; in shared memory a plane, so that threads meet no bank
// conflicts.
__device__ __forceinline__ void read_unit(const float* from, float (&to)[UNIT], int apart = 4) {
#pragma unroll
    for (int i = 0; i < UNIT; i += 4) {
        PackOf<float> four = load_pack(from + i / 4 * apart);
#pragma unroll
        for (int j = 0; j < 4; j++) to[i + j] = four.at[j];
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

// Factors of the gradient of a row.
struct Slope {
    float greatest, factor, cap;

    // factor = scale * weight * logit_scale / sum; times the slope of the cap.
    __device__ __forceinline__ float operator()(float x) const {
        float value = factor * exp2_fast((x - greatest) * LOG2_E);
        if (cap > 0.0f) {
            float capped = x / cap;
            value *= 1.0f - capped * capped;
        }
        return value;
    }
};

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}
// The 4 bytes at `mine` in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ float of_block(const float* mine, unsigned rank) {
    unsigned address = (unsigned)__cvta_generic_to_shared(mine), there;
    float value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
    return value;
}
#endif

// One row; with CLUSTERED this block's share of it. Logits (already scaled) are rows of `stride` floats and dlogits rows of
// `stride` T, 16-byte aligned, maybe the same memory if T is float. Without `scale` there are no gradients.
template <bool CLUSTERED>
__device__ __forceinline__ void entropy_of_row(const float* logits, long long stride, int vocab,
                                               const unsigned* targets, const float* weights, float cap,
                                               float logit_scale, const float* scale, T* dlogits, float* per_row,
                                               RowLoss* results) {
    __shared__ float shared[32];
    __shared__ float mine[3];
    __shared__ float target_gradient;
    extern __shared__ __align__(16) float held[];
    int row = CLUSTERED ? blockIdx.x / CLUSTER : blockIdx.x, rank = CLUSTERED ? blockIdx.x % CLUSTER : 0;
    int units = vocab / UNIT, share = CLUSTERED ? (units + CLUSTER - 1) / CLUSTER : units;
    int first = min(rank * share, units), last = min(first + share, units);
    // What is left of the row after whole units belongs to the last block.
    int rest = !CLUSTERED || rank == CLUSTER - 1 ? vocab - units * UNIT : 0;
    logits += row * stride;
    dlogits += row * stride;

    float weight = weights[row];
    if (weight == 0.0f) {
        if (scale) {
            float zeros[UNIT] = {};
            for (int unit = first + threadIdx.x; unit < last; unit += blockDim.x) write_unit(dlogits + unit * UNIT, zeros);
            if (threadIdx.x < rest) dlogits[units * UNIT + threadIdx.x] = from_float(0.0f);
        }
        if (threadIdx.x == 0 && rank == 0) {
            results[row] = RowLoss{0.0, 0, 0};
            if (per_row) per_row[row] = 0.0f;
        }
        return;
    }
    // The caller checked the targets; one that is no token gives NaN, and nothing outside of the row is read.
    bool known = targets[row] < (unsigned)vocab;
    int target = known ? (int)targets[row] : 0;
    float at_target = known ? finish(logits[target], cap) : __int_as_float(0x7fc00000);

    Sums sums;
#pragma unroll 2
    for (int unit = first + threadIdx.x; unit < last; unit += blockDim.x) {
        float x[UNIT];
        read_unit(logits + unit * UNIT, x);
        if (cap > 0.0f) {
#pragma unroll
            for (int i = 0; i < UNIT; i++) x[i] = finish(x[i], cap);
        }
        sums.add(x, unit * UNIT, at_target, target);
        if constexpr (CLUSTERED) {
#pragma unroll
            for (int i = 0; i < UNIT; i += 4)
                store_pack(held + (unit - first + i / 4 * share) * 4, PackOf<float>{x[i], x[i + 1], x[i + 2], x[i + 3]});
        }
    }
    int rest_column = units * UNIT + threadIdx.x;
    float rest_logit[1] = {LOWEST};
    if (threadIdx.x < rest) {
        rest_logit[0] = finish(logits[rest_column], cap);
        sums.add(rest_logit, rest_column, at_target, target);
    }
    float greatest = block_max(sums.greatest, shared);
    float sum = block_sum(sums.sum * exp2_fast((sums.greatest - greatest) * LOG2_E), shared);
    bool earlier = __syncthreads_or(sums.earlier);
#if __CUDA_ARCH__ >= 900
    if constexpr (CLUSTERED) {
        if (threadIdx.x == 0) {
            mine[0] = greatest;
            mine[1] = sum;
            mine[2] = earlier ? 1.0f : 0.0f;
        }
        cluster_barrier();
        // Every block adds the shares in the same order.
        float most = LOWEST, total = 0.0f;
        for (int other = 0; other < CLUSTER; other++) most = fmaxf(most, of_block(&mine[0], other));
        for (int other = 0; other < CLUSTER; other++) {
            total += of_block(&mine[1], other) * exp2_fast((of_block(&mine[0], other) - most) * LOG2_E);
            earlier |= of_block(&mine[2], other) != 0.0f;
        }
        greatest = most;
        sum = total;
        // Nobody leaves, with its shared memory, while others read it.
        cluster_barrier();
    }
#endif
    if (threadIdx.x == 0) {
        double log_sum = log((double)sum), below = (double)at_target - (double)greatest;
        if (rank == 0) {
            results[row] = RowLoss{log_sum - below, 1u, at_target == greatest && !earlier ? 1u : 0u};
            if (per_row) per_row[row] = (float)(log_sum - below);
        }
        if (scale) {
            // e^x - 1 in f64: a confident row's gradient is small, not rounded away.
            double capped = cap > 0.0f ? (double)at_target / cap : 0.0;
            target_gradient =
                (float)((double)(scale[0] * weight) * logit_scale * (1.0 - capped * capped) * expm1(below - log_sum));
        }
    }
    if (!scale) return;
    __syncthreads();
    Slope slope{greatest, scale[0] * weight * logit_scale / sum, cap};
#pragma unroll 2
    for (int unit = first + threadIdx.x; unit < last; unit += blockDim.x) {
        float x[UNIT];
        if constexpr (CLUSTERED) {
            read_unit(held + (unit - first) * 4, x, share * 4);
        } else {
            read_unit(logits + unit * UNIT, x);
            if (cap > 0.0f) {
#pragma unroll
                for (int i = 0; i < UNIT; i++) x[i] = finish(x[i], cap);
            }
        }
#pragma unroll
        for (int i = 0; i < UNIT; i++) x[i] = slope(x[i]);
        if (unit == target / UNIT) {
#pragma unroll
            for (int i = 0; i < UNIT; i++) {
                if (unit * UNIT + i == target) x[i] = target_gradient;
            }
        }
        write_unit(dlogits + unit * UNIT, x);
    }
    if (threadIdx.x < rest)
        dlogits[rest_column] = from_float(rest_column == target ? target_gradient : slope(rest_logit[0]));
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy(const float* logits, long long stride, int vocab, const unsigned* __restrict__ targets,
                  const float* __restrict__ weights, float cap, float logit_scale, const float* __restrict__ scale,
                  T* dlogits, float* __restrict__ per_row, RowLoss* __restrict__ results) {
    entropy_of_row<false>(logits, stride, vocab, targets, weights, cap, logit_scale, scale, dlogits, per_row, results);
}

#if __CUDA_ARCH__ >= 900
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(512, 2)
    cross_entropy_cluster(const float* logits, long long stride, int vocab, const unsigned* __restrict__ targets,
                          const float* __restrict__ weights, float cap, float logit_scale,
                          const float* __restrict__ scale, T* dlogits, float* __restrict__ per_row,
                          RowLoss* __restrict__ results) {
    entropy_of_row<true>(logits, stride, vocab, targets, weights, cap, logit_scale, scale, dlogits, per_row, results);
}
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
