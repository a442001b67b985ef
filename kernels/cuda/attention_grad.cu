// Attention backward for everything; after attention.cuh and attention_tiles.cuh. Scores are computed again, once for
// each of dq, dk and dv: three kernels without a sum shared between blocks.

// Logarithms of the softmax's denominators, and deltas, of up to 64 queries of one head.
__device__ __forceinline__ void load_statistics(
    const float* logsumexp, const float2* statistics, long long first_row, int heads, int head, int queries, SharedTiles& shared) {
    __syncthreads();
    if (threadIdx.x < TILE) {
        bool inside = (int)threadIdx.x < queries;
        long long at = (first_row + threadIdx.x) * heads + head;
        shared.logsumexp[threadIdx.x] = inside ? logsumexp[at] : 0.0f;
        shared.delta[threadIdx.x] = inside ? statistics[at].y : 0.0f;
    }
    __syncthreads();
}

// The probability of a visible score, and the factor that makes (gradient of p - delta) the gradient of the scaled score.
__device__ __forceinline__ float probability(float score, float soft_cap, float logsumexp, float& factor) {
    if (soft_cap > 0.0f) {
        float t = tanhf(score / soft_cap), p = expf(soft_cap * t - logsumexp);
        factor = p * (1.0f - t * t);
        return p;
    }
    return factor = expf(score - logsumexp);
}

// Grid: slots, heads, slices of head_dim.
extern "C" __global__ void __launch_bounds__(THREADS) attention_dq(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ logsumexp,
    const float2* __restrict__ statistics, const T* __restrict__ dout, const unsigned* __restrict__ starts, int count, int rows,
    int heads, int kv_heads, int head_dim, int value_dim, float scale, float soft_cap, int left, int right,
    T* __restrict__ dq) {
    __shared__ SharedTiles shared;
    Place place = find_tile(starts, count, rows, TILE, true);
    if (place.length <= 0) return;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads), slice = blockIdx.z * SLICE;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    long long q_stride = (long long)heads * head_dim, k_stride = (long long)kv_heads * head_dim;
    long long v_stride = (long long)kv_heads * value_dim, out_stride = (long long)heads * value_dim;
    int queries = min(TILE, place.length - place.first), width = min(SLICE, head_dim - slice);
    long long first_row = place.begin + place.first;
    q += first_row * q_stride + (long long)head * head_dim;
    dq += first_row * q_stride + (long long)head * head_dim + slice;
    dout += first_row * out_stride + (long long)head * value_dim;
    k += place.begin * k_stride + (long long)kv_head * head_dim;
    v += place.begin * v_stride + (long long)kv_head * value_dim;
    load_statistics(logsumexp, statistics, first_row, heads, head, queries, shared);

    float sums[4][2][4];
    clear(sums);
    int low = max(0, place.first - left), high = min(place.length, place.first + queries + right);
    for (int key = low; key < high; key += TILE) {
        int keys = min(TILE, high - key);
        float scores[4][4], gradients[4][4];
        dot_products(scores, q, q_stride, queries, k + key * k_stride, k_stride, keys, head_dim, shared);
        dot_products(gradients, dout, out_stride, queries, v + key * v_stride, v_stride, keys, value_dim, shared);
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                int query = 4 * y + r;
                bool visible = query < queries && 4 * x + c < keys && sees(place.first + query, key + 4 * x + c, left, right);
                float factor = 0.0f;
                if (visible) probability(scores[r][c] * scale, soft_cap, shared.logsumexp[query], factor);
                scores[r][c] = visible ? factor * (gradients[r][c] - shared.delta[query]) : 0.0f;
            }
        store_weights(scores, shared);
        add_product(sums, k + key * k_stride + slice, k_stride, keys, width, shared);
    }
    float factor[4] = {scale, scale, scale, scale};
    store_result(sums, factor, dq, q_stride, queries, width);
}

// The gradient of the keys (KEYS) or of the values, summed over the query heads that share them in the order of the heads.
template <bool KEYS>
__device__ __forceinline__ void key_value_gradient(
    const T* q, const T* k, const T* v, const float* logsumexp, const float2* statistics, const T* dout, const unsigned* starts,
    int count, int rows, int heads, int kv_heads, int head_dim, int value_dim, float scale, float soft_cap, int left,
    int right, T* result) {
    __shared__ SharedTiles shared;
    Place place = find_tile(starts, count, rows, TILE, false);
    if (place.length <= 0) return;
    int kv_head = blockIdx.y, group = heads / kv_heads, slice = blockIdx.z * SLICE;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    long long q_stride = (long long)heads * head_dim, k_stride = (long long)kv_heads * head_dim;
    long long v_stride = (long long)kv_heads * value_dim, out_stride = (long long)heads * value_dim;
    int keys = min(TILE, place.length - place.first);
    int dim = KEYS ? head_dim : value_dim, width = min(SLICE, dim - slice);
    long long first_row = place.begin + place.first;
    k += first_row * k_stride + (long long)kv_head * head_dim;
    v += first_row * v_stride + (long long)kv_head * value_dim;

    float sums[4][2][4];
    clear(sums);
    int low = max(0, place.first - right), high = min(place.length, place.first + keys + left);
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
        for (int query = low; query < high; query += TILE) {
            int queries = min(TILE, high - query);
            long long row = place.begin + query;
            const T* query_tile = q + row * q_stride + (long long)head * head_dim;
            const T* dout_tile = dout + row * out_stride + (long long)head * value_dim;
            load_statistics(logsumexp, statistics, row, heads, head, queries, shared);
            float scores[4][4], gradients[4][4];
            dot_products(scores, k, k_stride, keys, query_tile, q_stride, queries, head_dim, shared);
            if (KEYS) dot_products(gradients, v, v_stride, keys, dout_tile, out_stride, queries, value_dim, shared);
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    int column = 4 * x + c;
                    bool visible = 4 * y + r < keys && column < queries &&
                                   sees(query + column, place.first + 4 * y + r, left, right);
                    float factor = 0.0f, p = 0.0f;
                    if (visible) p = probability(scores[r][c] * scale, soft_cap, shared.logsumexp[column], factor);
                    scores[r][c] = KEYS && visible ? factor * (gradients[r][c] - shared.delta[column]) : p;
                }
            store_weights(scores, shared);
            if (KEYS)
                add_product(sums, query_tile + slice, q_stride, queries, width, shared);
            else
                add_product(sums, dout_tile + slice, out_stride, queries, width, shared);
        }
    float one = KEYS ? scale : 1.0f, factor[4] = {one, one, one, one};
    long long stride = KEYS ? k_stride : v_stride;
    store_result(sums, factor, result + first_row * stride + (long long)kv_head * dim + slice, stride, keys, width);
}

// Grid: slots, kv_heads, slices of head_dim.
extern "C" __global__ void __launch_bounds__(THREADS) attention_dk(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ logsumexp,
    const float2* __restrict__ statistics, const T* __restrict__ dout, const unsigned* __restrict__ starts, int count, int rows,
    int heads, int kv_heads, int head_dim, int value_dim, float scale, float soft_cap, int left, int right,
    T* __restrict__ dk) {
    key_value_gradient<true>(
        q, k, v, logsumexp, statistics, dout, starts, count, rows, heads, kv_heads, head_dim, value_dim, scale, soft_cap, left,
        right, dk);
}

// Grid: slots, kv_heads, slices of value_dim.
extern "C" __global__ void __launch_bounds__(THREADS) attention_dv(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float* __restrict__ logsumexp,
    const float2* __restrict__ statistics, const T* __restrict__ dout, const unsigned* __restrict__ starts, int count, int rows,
    int heads, int kv_heads, int head_dim, int value_dim, float scale, float soft_cap, int left, int right,
    T* __restrict__ dv) {
    key_value_gradient<false>(
        q, k, v, logsumexp, statistics, dout, starts, count, rows, heads, kv_heads, head_dim, value_dim, scale, soft_cap, left,
        right, dv);
}
