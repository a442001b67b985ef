// Attention backward on tensor cores, for one HEAD_DIM and VALUE_DIM; after attention.cuh and tensor_core.cuh. Two kernels,
// each owning what it writes: dq by blocks of queries, dk and dv by blocks of keys, which go through the queries of every
// head that shares them. Both make scores and probabilities again. Weights never leave registers: as accumulators of
// one product they are, rounded, an operand of the next.

#if ELEMENT != 0

constexpr int D = HEAD_DIM, V = VALUE_DIM;
// Rows padded by 16 bytes: eight rows of a matrix then lie in different banks.
constexpr int DP = D + 8, VP = V + 8;

// Exponents of two: e^(scale s) = 2^(factor s), of a capped score 2^(outside_cap tanh).
struct Exponents {
    float factor, inside_cap, outside_cap;
};
__device__ __forceinline__ Exponents exponents(float scale, float soft_cap) {
    bool capped = soft_cap > 0.0f;
    return Exponents{scale * LOG2E, capped ? 2.0f * LOG2E * scale / soft_cap : 0.0f, soft_cap * LOG2E};
}

struct Capped {
    static constexpr bool value = true;
};
struct Uncapped {
    static constexpr bool value = false;
};

// The probability of a score, and its factor in (gradient of p - delta) -> gradient of the scaled score.
template <typename Cap>
__device__ __forceinline__ float probability(Cap, float score, const Exponents& e, float logsumexp, float& factor) {
    if constexpr (Cap::value) {
        // tanh(x) = 1 - 2 / (1 + e^2x)
        float tanh = 1.0f - 2.0f * fast_reciprocal(1.0f + fast_exp2(score * e.inside_cap));
        float p = fast_exp2(e.outside_cap * tanh - logsumexp);
        factor = p * (1.0f - tanh * tanh);
        return p;
    } else {
        return factor = fast_exp2(score * e.factor - logsumexp);
    }
}

// ---- dq

constexpr int QUERY_ROWS = QUERY_WARPS * QUERY_TILES * 16, QUERY_THREADS = QUERY_WARPS * 32;
constexpr int KEY_STAGE = QUERY_KEYS * (DP + VP);

// Grid: slots of QUERY_ROWS, heads. Dynamic shared memory: q[QUERY_ROWS][DP], dout[QUERY_ROWS][VP], and two stages of
// k[QUERY_KEYS][DP], v[QUERY_KEYS][VP].
extern "C" __global__ void __launch_bounds__(QUERY_THREADS) attention_mma_dq(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float2* __restrict__ statistics,
    const T* __restrict__ dout, const unsigned* __restrict__ starts, int count, int rows, int heads, int kv_heads,
    float scale, float soft_cap, int left, int right, T* __restrict__ dq) {
    constexpr int M = QUERY_TILES, KEYS = QUERY_KEYS, ROWS = QUERY_ROWS, THREADS = QUERY_THREADS;
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

    unsigned q_shared = shared_address(shared), dout_shared = q_shared + 2 * ROWS * DP, stages = dout_shared + 2 * ROWS * VP;
    auto load = [&](int key, int stage) {
        unsigned to = stages + 2 * KEY_STAGE * stage;
        load_tile<KEYS, D, DP, THREADS>(to, k + key * k_stride, k_stride, high - key);
        load_tile<KEYS, V, VP, THREADS>(to + 2 * KEYS * DP, v + key * v_stride, v_stride, high - key);
    };
    load_tile<ROWS, D, DP, THREADS>(q_shared, q + first_row * q_stride + (long long)head * D, q_stride, queries);
    load_tile<ROWS, V, VP, THREADS>(dout_shared, dout + first_row * out_stride + (long long)head * V, out_stride, queries);
    if (low < high) load(low, 0);
    copy_async_commit();

    unsigned q_lane = q_shared + 2 * warp * M * 16 * DP + down_then_right<DP>();
    unsigned dout_lane = dout_shared + 2 * warp * M * 16 * VP + down_then_right<VP>();
    unsigned k_lane = stages + right_then_down<DP>(), v_lane = stages + 2 * KEYS * DP + right_then_down<VP>();
    unsigned k_transposed = stages + down_then_right<DP>();
    int warp_first = place.first + warp * M * 16, warp_last = warp_first + M * 16 - 1, first_query = warp_first + lane / 4;
    Exponents exponent = exponents(scale, soft_cap);
    // Of the thread's rows, first_query + 8 i. Rows past the end have probability 0.
    float logsumexp[2 * M], delta[2 * M];
#pragma unroll
    for (int i = 0; i < 2 * M; ++i) {
        int query = first_query + 8 * i;
        float2 both = make_float2(__int_as_float(0x7f800000), 0.0f);
        if (query < place.length) both = statistics[(long long)(place.begin + query) * heads + head];
        logsumexp[i] = both.x, delta[i] = both.y;
    }
    float result[M][D / 8][4];
    clear(result);

    int stage = 0;
    for (int key = low; key < high; key += KEYS, stage ^= 1) {
        // All of this stage has come, and nobody reads the other one any more.
        copy_async_wait<0>();
        __syncthreads();
        if (key + KEYS < high) load(key + KEYS, stage ^ 1);
        copy_async_commit();
        if (key > warp_last + right || key + KEYS - 1 + left < warp_first) continue;

        float scores[M][KEYS / 8][4], gradients[M][KEYS / 8][4];
        multiply_rows<M, KEYS / 8, D, DP>(scores, q_lane, k_lane + 2 * KEY_STAGE * stage);
        multiply_rows<M, KEYS / 8, V, VP>(gradients, dout_lane, v_lane + 2 * KEY_STAGE * stage);
        auto differentiate = [&](auto cap) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        float factor;
                        probability(cap, scores[m][n][i], exponent, logsumexp[2 * m + i / 2], factor);
                        scores[m][n][i] = factor * (gradients[m][n][i] - delta[2 * m + i / 2]);
                    }
        };
        if (soft_cap > 0.0f) differentiate(Capped());
        else differentiate(Uncapped());
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
                        if (!visible) scores[m][n][i] = 0.0f;
                    }
        }
        unsigned weights[M][KEYS / 16][4];
        round_operand(weights, scores);
        add_product<M, D / 8, KEYS / 16, DP>(result, weights, k_transposed + 2 * KEY_STAGE * stage);
    }

    // The result leaves through the queries' place, which the loop may not have waited for.
    copy_async_wait<0>();
    __syncthreads();
    T* mine = shared + warp * M * 16 * DP;
    store_accumulators<M, D / 8, DP>(mine, result, scale);
    store_tile<M * 16, D, DP>(
        mine, dq + (first_row + warp * M * 16) * q_stride + (long long)head * D, q_stride, queries - warp * M * 16);
}

// ---- dk and dv

constexpr int KEY_ROWS = KEY_WARPS * KEY_TILES * 16, KEY_THREADS = KEY_WARPS * 32;
constexpr int QUERY_STAGE = KEY_QUERIES * (DP + VP), QUERY_STATISTICS = KEY_QUERIES * 8;

// Dynamic shared memory: k[KEY_ROWS][DP], v[KEY_ROWS][VP], two stages of q[KEY_QUERIES][DP], dout[KEY_QUERIES][VP], and
// two stages of statistics[KEY_QUERIES].
template <bool KEYS, bool VALUES>
__device__ __forceinline__ void key_value_gradient(
    const T* q, const T* k, const T* v, const float2* statistics, const T* dout, const unsigned* starts, int count, int rows,
    int heads, int kv_heads, float scale, float soft_cap, int left, int right, T* dk, T* dv, T* shared) {
    constexpr int M = KEY_TILES, QUERIES = KEY_QUERIES, CHUNK = KEY_CHUNK, ROWS = KEY_ROWS, THREADS = KEY_THREADS;
    Place place = find_tile(starts, count, rows, ROWS, false);
    if (place.length <= 0) return;
    int kv_head = blockIdx.y, group = heads / kv_heads;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    long long q_stride = (long long)heads * D, k_stride = (long long)kv_heads * D, v_stride = (long long)kv_heads * V;
    long long out_stride = (long long)heads * V, first_row = place.begin + place.first;
    int keys = min(ROWS, place.length - place.first);
    q += place.begin * q_stride + (long long)kv_head * group * D;
    dout += place.begin * out_stride + (long long)kv_head * group * V;
    statistics += (long long)place.begin * heads + kv_head * group;
    int low = max(0, place.first - right), high = min(place.length, place.first + keys + left);

    unsigned k_shared = shared_address(shared), v_shared = k_shared + 2 * ROWS * DP;
    unsigned stages = v_shared + 2 * ROWS * VP, numbers = stages + 4 * QUERY_STAGE;
    const float2* stored = reinterpret_cast<const float2*>(shared + ROWS * (DP + VP) + 2 * QUERY_STAGE);
    auto load = [&](int head, int query, int stage) {
        unsigned to = stages + 2 * QUERY_STAGE * stage;
        load_tile<QUERIES, D, DP, THREADS>(to, q + query * q_stride + head * D, q_stride, high - query);
        load_tile<QUERIES, V, VP, THREADS>(
            to + 2 * QUERIES * DP, dout + query * out_stride + head * V, out_stride, high - query);
        // Queries past the end: zeros everywhere, which add nothing.
        for (int i = threadIdx.x; i < QUERIES; i += THREADS) {
            bool inside = query + i < high;
            copy_async_pair(
                numbers + QUERY_STATISTICS * stage + 8 * i,
                statistics + (inside ? (long long)(query + i) * heads + head : 0), inside);
        }
    };
    load_tile<ROWS, D, DP, THREADS>(k_shared, k + first_row * k_stride + (long long)kv_head * D, k_stride, keys);
    load_tile<ROWS, V, VP, THREADS>(v_shared, v + first_row * v_stride + (long long)kv_head * V, v_stride, keys);
    if (low < high) load(0, low, 0);
    copy_async_commit();

    unsigned k_lane = k_shared + 2 * warp * M * 16 * DP + down_then_right<DP>();
    unsigned v_lane = v_shared + 2 * warp * M * 16 * VP + down_then_right<VP>();
    unsigned q_lane = stages + right_then_down<DP>(), q_transposed = stages + down_then_right<DP>();
    unsigned dout_lane = stages + 2 * QUERIES * DP + right_then_down<VP>();
    unsigned dout_transposed = stages + 2 * QUERIES * DP + down_then_right<VP>();
    int warp_first = place.first + warp * M * 16, warp_last = warp_first + M * 16 - 1, first_key = warp_first + lane / 4;
    Exponents exponent = exponents(scale, soft_cap);
    float key_sums[KEYS ? M : 1][KEYS ? D / 8 : 1][4], value_sums[VALUES ? M : 1][VALUES ? V / 8 : 1][4];
    clear(key_sums);
    clear(value_sums);

    // Keys and values as first operands, where the registers hold them beside both sums.
    constexpr bool HELD = KEYS && VALUES;
    unsigned key_operand[HELD ? M : 1][HELD ? D / 16 : 1][4], value_operand[HELD ? M : 1][HELD ? V / 16 : 1][4];
    if constexpr (HELD) {
        copy_async_wait<0>();
        __syncthreads();
        load_operand<M, D / 16, DP>(key_operand, k_lane);
        load_operand<M, V / 16, VP>(value_operand, v_lane);
    }

    int stage = 0;
    for (int head = 0, query = low; low < high && head < group; stage ^= 1) {
        int next_head = query + QUERIES < high ? head : head + 1, next = query + QUERIES < high ? query + QUERIES : low;
        // All of this stage has come, and nobody reads the other one any more.
        copy_async_wait<0>();
        __syncthreads();
        if (next_head < group) load(next_head, next, stage ^ 1);
        copy_async_commit();
        for (int chunk = 0; chunk < QUERIES; chunk += CHUNK) {
            int first = query + chunk, last = first + CHUNK - 1;
            if (warp_first > last + right || first > warp_last + left || first >= high) continue;
            float scores[M][CHUNK / 8][4], gradients[M][CHUNK / 8][4];
            unsigned offset = 2 * QUERY_STAGE * stage;
            unsigned q_chunk = q_lane + offset + 2 * chunk * DP, dout_chunk = dout_lane + offset + 2 * chunk * VP;
            if constexpr (HELD) {
                multiply_rows<M, CHUNK / 8, D, DP>(scores, key_operand, q_chunk);
                multiply_rows<M, CHUNK / 8, V, VP>(gradients, value_operand, dout_chunk);
            } else {
                multiply_rows<M, CHUNK / 8, D, DP>(scores, k_lane, q_chunk);
                if (KEYS) multiply_rows<M, CHUNK / 8, V, VP>(gradients, v_lane, dout_chunk);
            }
            const float2* statistic = stored + QUERIES * stage + chunk + 2 * (lane % 4);
            auto differentiate = [&](auto cap) {
#pragma unroll
                for (int n = 0; n < CHUNK / 8; ++n) {
                    float4 both = *reinterpret_cast<const float4*>(statistic + 8 * n);
#pragma unroll
                    for (int m = 0; m < M; ++m)
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            float factor, logsumexp = i % 2 ? both.z : both.x, delta = i % 2 ? both.w : both.y;
                            float p = probability(cap, scores[m][n][i], exponent, logsumexp, factor);
                            if (KEYS) gradients[m][n][i] = factor * (gradients[m][n][i] - delta);
                            scores[m][n][i] = p;
                        }
                }
            };
            if (soft_cap > 0.0f) differentiate(Capped());
            else differentiate(Uncapped());
            if (!(warp_last <= first + right && last <= warp_first + left)) {
#pragma unroll
                for (int m = 0; m < M; ++m)
#pragma unroll
                    for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            int column = first + n * 8 + 2 * (lane % 4) + i % 2;
                            if (sees(column, first_key + 16 * m + i / 2 * 8, left, right)) continue;
                            scores[m][n][i] = 0.0f;
                            if (KEYS) gradients[m][n][i] = 0.0f;
                        }
            }
            unsigned weights[M][CHUNK / 16][4];
            if constexpr (VALUES) {
                round_operand(weights, scores);
                add_product<M, V / 8, CHUNK / 16, VP>(value_sums, weights, dout_transposed + offset + 2 * chunk * VP);
            }
            if constexpr (KEYS) {
                round_operand(weights, gradients);
                add_product<M, D / 8, CHUNK / 16, DP>(key_sums, weights, q_transposed + offset + 2 * chunk * DP);
            }
        }
        head = next_head, query = next;
    }

    // The results leave through the places of keys and values, which the loop may not have waited for.
    copy_async_wait<0>();
    __syncthreads();
    int first = warp * M * 16;
    if constexpr (KEYS) {
        T* mine = shared + first * DP;
        store_accumulators<M, D / 8, DP>(mine, key_sums, scale);
        store_tile<M * 16, D, DP>(
            mine, dk + (first_row + first) * k_stride + (long long)kv_head * D, k_stride, keys - first);
    }
    if constexpr (VALUES) {
        T* mine = shared + ROWS * DP + first * VP;
        store_accumulators<M, V / 8, VP>(mine, value_sums, 1.0f);
        store_tile<M * 16, V, VP>(
            mine, dv + (first_row + first) * v_stride + (long long)kv_head * V, v_stride, keys - first);
    }
}

// Grid: slots of KEY_ROWS, kv_heads, and with SPLIT two: where the registers do not hold both sums, the first half of the
// grid makes dk and the second dv.
extern "C" __global__ void __launch_bounds__(KEY_THREADS) attention_mma_dkv(
    const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const float2* __restrict__ statistics,
    const T* __restrict__ dout, const unsigned* __restrict__ starts, int count, int rows, int heads, int kv_heads,
    float scale, float soft_cap, int left, int right, T* __restrict__ dk, T* __restrict__ dv) {
    extern __shared__ uint4 dynamic_shared[];
    T* shared = reinterpret_cast<T*>(dynamic_shared);
#if SPLIT
    if (blockIdx.z == 0)
        key_value_gradient<true, false>(
            q, k, v, statistics, dout, starts, count, rows, heads, kv_heads, scale, soft_cap, left, right, dk, dv, shared);
    else
        key_value_gradient<false, true>(
            q, k, v, statistics, dout, starts, count, rows, heads, kv_heads, scale, soft_cap, left, right, dk, dv, shared);
#else
    key_value_gradient<true, true>(
        q, k, v, statistics, dout, starts, count, rows, heads, kv_heads, scale, soft_cap, left, right, dk, dv, shared);
#endif
}

#endif
