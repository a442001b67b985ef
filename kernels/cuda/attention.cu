// Attention forward for everything; after attention.cuh and attention_tiles.cuh.

// The scaled score, capped if there is a cap.
__device__ __forceinline__ float capped(float score, float soft_cap) {
    return soft_cap > 0.0f ? soft_cap * tanhf(score / soft_cap) : score;
}

// Grid: slots, heads, slices of value_dim.
extern "C" __global__ void __launch_bounds__(THREADS) attention(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const unsigned* __restrict__ starts,
    int count, int rows, int heads, int kv_heads, int head_dim, int value_dim, float scale, float soft_cap, int left,
    int right, T* __restrict__ out, float* __restrict__ logsumexp) {
    __shared__ SharedTiles shared;
    Place place = find_tile(starts, count, rows, TILE, true);
    if (place.length <= 0) return;
    int head = blockIdx.y, kv_head = head / (heads / kv_heads), slice = blockIdx.z * SLICE;
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    long long q_stride = (long long)heads * head_dim, k_stride = (long long)kv_heads * head_dim;
    long long v_stride = (long long)kv_heads * value_dim, out_stride = (long long)heads * value_dim;
    int queries = min(TILE, place.length - place.first), width = min(SLICE, value_dim - slice);
    long long first_row = place.begin + place.first;
    q += first_row * q_stride + (long long)head * head_dim;
    k += place.begin * k_stride + (long long)kv_head * head_dim;
    v += place.begin * v_stride + (long long)kv_head * value_dim + slice;

    const float INFINITE = __int_as_float(0x7f800000);
    float sums[4][2][4], maximum[4], sum[4];
    clear(sums);
#pragma unroll
    for (int r = 0; r < 4; ++r) maximum[r] = -INFINITE, sum[r] = 0.0f;
    int low = max(0, place.first - left), high = min(place.length, place.first + queries + right);
    for (int key = low; key < high; key += TILE) {
        int keys = min(TILE, high - key);
        float scores[4][4];
        dot_products(scores, q, q_stride, queries, k + key * k_stride, k_stride, keys, head_dim, shared);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            float greatest = maximum[r];
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                bool visible = 4 * x + c < keys && sees(place.first + 4 * y + r, key + 4 * x + c, left, right);
                scores[r][c] = visible ? capped(scores[r][c] * scale, soft_cap) : -INFINITE;
                greatest = fmaxf(greatest, scores[r][c]);
            }
#pragma unroll
            for (int offset = 8; offset > 0; offset >>= 1)
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, offset));
            // Where nothing was visible yet, any finite maximum keeps infinity minus infinity out.
            float base = greatest == -INFINITE ? 0.0f : greatest, shrink = expf(maximum[r] - base), added = 0.0f;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                scores[r][c] = expf(scores[r][c] - base);
                added += scores[r][c];
            }
#pragma unroll
            for (int offset = 8; offset > 0; offset >>= 1) added += __shfl_xor_sync(0xffffffffu, added, offset);
            maximum[r] = greatest;
            sum[r] = sum[r] * shrink + added;
#pragma unroll
            for (int i = 0; i < 8; ++i) sums[r][i / 4][i % 4] *= shrink;
        }
        store_weights(scores, shared);
        add_product(sums, v + key * v_stride, v_stride, keys, width, shared);
    }

    float factor[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        factor[r] = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
        if (slice == 0 && x == 0 && 4 * y + r < queries)
            logsumexp[(first_row + 4 * y + r) * heads + head] = sum[r] > 0.0f ? maximum[r] + logf(sum[r]) : -INFINITE;
    }
    store_result(sums, factor, out + first_row * out_stride + (long long)head * value_dim + slice, out_stride, queries, width);
}
