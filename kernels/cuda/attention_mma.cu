// Attention forward on tensor cores (Dao, arXiv:2307.08691), for one HEAD_DIM and VALUE_DIM; after attention.cuh and
// tensor_core.cuh. A block owns queries of one head; a warp owns 16 * ROW_TILES of them, with their scores, softmax and
// result in registers. Tiles of TILE_KEYS keys and values pass through two stages of shared memory: the next is on its way
// while one is used. With two row tiles a warp uses each fragment of keys and values twice, if its registers hold them.

#if ELEMENT != 0

constexpr int D = HEAD_DIM, V = VALUE_DIM;
constexpr int M = ROW_TILES, KEYS = TILE_KEYS, ROWS = WARPS * M * 16, THREADS = WARPS * 32;
// Rows padded by 16 bytes: eight rows of a matrix then lie in different banks.
constexpr int DP = D + 8, VP = V + 8;

// Shared memory: q[ROWS][DP], then two stages of k[KEYS][DP] and v[KEYS][VP]; the result leaves through q.
constexpr int STAGE = KEYS * (DP + VP);
static_assert(V <= D, "the result leaves through the queries' place");

// Grid: slots of ROWS, heads. Dynamic shared memory: (ROWS * DP + 2 * STAGE) elements.
extern "C" __global__ void __launch_bounds__(THREADS) attention_mma(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const unsigned* __restrict__ starts,
    int count, int rows, int heads, int kv_heads, float scale, float soft_cap, int left, int right, T* __restrict__ out,
    float* __restrict__ logsumexp) {
    extern __shared__ uint4 dynamic_shared[];
    T* shared = reinterpret_cast<T*>(dynamic_shared);
    Place place = find_tile(starts, count, rows, ROWS, true);
    if (place.length <= 0) return;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long q_stride = (long long)heads * D, k_stride = (long long)kv_heads * D, v_stride = (long long)kv_heads * V;
    long long out_stride = (long long)heads * V, first_row = place.begin + place.first;
    int queries = min(ROWS, place.length - place.first);
    k += place.begin * k_stride + (long long)kv_head * D;
    v += place.begin * v_stride + (long long)kv_head * V;
    int low = max(0, place.first - left), high = min(place.length, place.first + queries + right);

    unsigned q_shared = shared_address(shared), stages = q_shared + 2 * ROWS * DP;
    auto load = [&](int key, int stage) {
        unsigned to = stages + 2 * STAGE * stage;
        load_tile<KEYS, D, DP, THREADS>(to, k + key * k_stride, k_stride, high - key);
        load_tile<KEYS, V, VP, THREADS>(to + 2 * KEYS * DP, v + key * v_stride, v_stride, high - key);
    };
    load_tile<ROWS, D, DP, THREADS>(q_shared, q + first_row * q_stride + (long long)head * D, q_stride, queries);
    if (low < high) load(low, 0);
    copy_async_commit();

    unsigned q_lane = q_shared + 2 * warp * M * 16 * DP + down_then_right<DP>();
    unsigned k_lane = stages + right_then_down<DP>(), v_lane = stages + 2 * KEYS * DP + down_then_right<VP>();
    // The thread's rows are first_query + 8 i, i < 2 M; a warp's are warp_first .. warp_last.
    int warp_first = place.first + warp * M * 16, warp_last = warp_first + M * 16 - 1, first_query = warp_first + lane / 4;
    const float INFINITE = __int_as_float(0x7f800000);
    // Exponents of two: e^(scale s) = 2^(factor s), of a capped score 2^s.
    float factor = soft_cap > 0.0f ? 1.0f : scale * LOG2E;
    float inside_cap = soft_cap > 0.0f ? 2.0f * LOG2E * scale / soft_cap : 0.0f, outside_cap = soft_cap * LOG2E;
    float result[M][V / 8][4], maximum[2 * M], sum[2 * M];
    clear(result);
#pragma unroll
    for (int i = 0; i < 2 * M; ++i) maximum[i] = -INFINITE, sum[i] = 0.0f;

    int stage = 0;
    for (int key = low; key < high; key += KEYS, stage ^= 1) {
        // All of this stage has come, and nobody reads the other one any more.
        copy_async_wait<0>();
        __syncthreads();
        if (key + KEYS < high) load(key + KEYS, stage ^ 1);
        copy_async_commit();
        if (key > warp_last + right || key + KEYS - 1 + left < warp_first) continue;

        float scores[M][KEYS / 8][4];
        multiply_rows<M, KEYS / 8, D, DP>(scores, q_lane, k_lane + 2 * STAGE * stage);
        if (soft_cap > 0.0f) {
            // tanh(x) = 1 - 2 / (1 + e^2x)
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        float tanh = 1.0f - 2.0f * fast_reciprocal(1.0f + fast_exp2(scores[m][n][i] * inside_cap));
                        scores[m][n][i] = outside_cap * tanh;
                    }
        }
        bool all_visible = key + KEYS <= high && key + KEYS - 1 <= warp_first + right && warp_last <= key + left;
        if (!all_visible) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        int column = key + n * 8 + 2 * (lane % 4) + i % 2;
                        bool visible = column < high && sees(first_query + 16 * m + i / 2 * 8, column, left, right);
                        if (!visible) scores[m][n][i] = -INFINITE;
                    }
        }
        // Online softmax of row g (i = 0) and g + 8 (i = 1) of each row tile; four lanes share a row.
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float greatest = maximum[2 * m + i];
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
                    greatest = fmaxf(greatest, fmaxf(scores[m][n][2 * i], scores[m][n][2 * i + 1]));
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
                // Where nothing was visible yet, any finite base keeps infinity minus infinity out.
                float base = greatest == -INFINITE ? 0.0f : greatest * factor;
                float shrink = fast_exp2(maximum[2 * m + i] * factor - base);
                maximum[2 * m + i] = greatest;
                float added = 0.0f;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        float p = fast_exp2(scores[m][n][2 * i + j] * factor - base);
                        scores[m][n][2 * i + j] = p;
                        added += p;
                    }
                // The thread's own columns: the four lanes' sums meet at the end.
                sum[2 * m + i] = sum[2 * m + i] * shrink + added;
#pragma unroll
                for (int n = 0; n < V / 8; ++n) result[m][n][2 * i] *= shrink, result[m][n][2 * i + 1] *= shrink;
            }
        unsigned weights[M][KEYS / 16][4];
        round_operand(weights, scores);
        add_product<M, V / 8, KEYS / 16, VP>(result, weights, v_lane + 2 * STAGE * stage);
    }

    // Without a visible key the loop has not waited for the queries, and their place is the result's.
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float total = sum[2 * m + i];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            float inverse = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
            for (int n = 0; n < V / 8; ++n) result[m][n][2 * i] *= inverse, result[m][n][2 * i + 1] *= inverse;
            int query = first_query + 16 * m + 8 * i;
            if (lane % 4 == 0 && query < place.length)
                logsumexp[(long long)(place.begin + query) * heads + head] =
                    total > 0.0f ? maximum[2 * m + i] * factor / LOG2E + logf(total) : -INFINITE;
        }
    T* mine = shared + warp * M * 16 * DP;
    store_accumulators<M, V / 8, DP>(mine, result, 1.0f);
    store_tile<M * 16, V, DP>(
        mine, out + (first_row + warp * M * 16) * out_stride + (long long)head * V, out_stride, queries - warp * M * 16);
}

#endif
