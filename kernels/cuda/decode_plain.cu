// Products of few rows with matrices, of any type and size: a warp for each weight row. Behind `decode.cuh`.

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
