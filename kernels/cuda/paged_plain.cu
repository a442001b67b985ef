// Attention over a cache of pages without tensor cores, and writing to the cache; see paged.cuh.

// Any type and width up to 256, without tensor cores: f32, and rows that are not made of 16-byte chunks.
template <int V> __device__ __forceinline__ void attend_plainly(const Call& call) {
    constexpr int SLOTS = 8, PARTS = 8;
    extern __shared__ __align__(128) char memory[];
    begin_after_earlier_kernels();
    Place place;
    if (!find_place<SLOTS>(call, place)) return;
    Layout at(memory, call, SLOTS);
    prepare_queries<V>(call, place, at, SLOTS);
    __syncthreads();

    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, used = place.used();
    float sums[SLOTS][PARTS], maxima[SLOTS], totals[SLOTS];
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
        maxima[slot] = minus_infinity();
        totals[slot] = 0.0f;
#pragma unroll
        for (int part = 0; part < PARTS; part++) sums[slot][part] = 0.0f;
    }
    const unsigned* page_ids = call.table + (long long)place.sequence * call.table_width;
    bool bad = false;
    for (int tile = place.from / PAGE; tile <= (place.to - 1) / PAGE; tile++) {
        int first = tile * PAGE + warp * WARP_KEYS;
        int low = max(0, place.from - first), high = min(WARP_KEYS, place.to - first);
        if (low >= high) continue;
        unsigned page = page_ids[tile];
        if (page >= (unsigned)call.page_count) {
            bad = true;
            continue;
        }
        const T* keys = head_of_page(call, page, place.kv_head);
        const T* values = keys + PAGE * call.dim;
        auto row = [&](const T* rows, const T* own, int key, int width) {
            return call.k_new && first + key == place.position ? own : rows + (warp * WARP_KEYS + key) * width;
        };
        // Lane i keeps the scores of key i.
        float x[SLOTS];
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) x[slot] = minus_infinity();
        for (int key = low; key < high; key++) {
            const T* from = row(keys, at.key, key, call.dim);
            float k[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                k[part] = lane + 32 * part < call.dim ? to_float(from[lane + 32 * part]) : 0.0f;
            }
#pragma unroll
            for (int slot = 0; slot < SLOTS; slot++) {
                if (slot >= used) continue;
                float dot = 0.0f;
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    int column = lane + 32 * part;
                    if (column < call.dim) dot = __fmaf_rn(k[part], to_float(at.q[slot * at.q_stride + column]), dot);
                }
                dot = warp_sum(dot);
                int behind = place.position + slot / place.heads - (first + key);
                if (lane == key && (unsigned)behind < (unsigned)call.window) x[slot] = exponent(call, dot);
            }
        }
#pragma unroll
        for (int slot = 0; slot < SLOTS; slot++) {
            if (slot >= used) continue;
            float m = fmaxf(maxima[slot], warp_max(x[slot]));
            float base = m == minus_infinity() ? 0.0f : m, shrink = exp2_fast(maxima[slot] - base);
            maxima[slot] = m;
            x[slot] = exp2_fast(x[slot] - base);
            totals[slot] = __fmaf_rn(totals[slot], shrink, x[slot]);
#pragma unroll
            for (int part = 0; part < PARTS; part++) sums[slot][part] *= shrink;
        }
        for (int key = low; key < high; key++) {
            const T* from = row(values, at.value, key, call.value_dim);
            float v[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                v[part] = lane + 32 * part < call.value_dim ? to_float(from[lane + 32 * part]) : 0.0f;
            }
#pragma unroll
            for (int slot = 0; slot < SLOTS; slot++) {
                if (slot >= used) continue;
                float weight = __shfl_sync(0xffffffffu, x[slot], key);
#pragma unroll
                for (int part = 0; part < PARTS; part++) sums[slot][part] = __fmaf_rn(weight, v[part], sums[slot][part]);
            }
        }
    }
    float* to = reinterpret_cast<float*>(at.region);
#pragma unroll
    for (int slot = 0; slot < SLOTS; slot++) {
        if (slot >= used) continue;
        float total = warp_sum(totals[slot]);
        if (lane == 0) {
            at.maxima[warp * SLOTS + slot] = maxima[slot];
            at.sums[warp * SLOTS + slot] = bad ? not_a_number() : total;
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            int column = lane + 32 * part;
            if (column < call.value_dim) to[(warp * SLOTS + slot) * (call.value_dim + 4) + column] = sums[slot][part];
        }
    }
    finish<SLOTS>(call, place, at);
}

// `paged_packs` for f32 rows made of 16-byte packs, whose norm is summed in the order of those.
extern "C" __global__ void __launch_bounds__(32 * WARPS) paged_packs(PARAMETERS) {
    Call call = ARGUMENTS;
    attend_plainly<Pack::N>(call);
}
extern "C" __global__ void __launch_bounds__(32 * WARPS) paged_scalars(PARAMETERS) {
    Call call = ARGUMENTS;
    attend_plainly<1>(call);
}

// Writes rows of keys and values to the cache; a warp writes one head's row.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    paged_append(const T* k, const T* v, T* pages, const unsigned* table, const unsigned* row_sequence,
                 const unsigned* positions, int rows, int kv_heads, int dim, int value_dim, int page_count,
                 int sequences, int bound_pages, int table_width, int packs) {
    begin_after_earlier_kernels();
    long long unit = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
    int row = unit / kv_heads, kv_head = unit % kv_heads, lane = threadIdx.x & 31;
    if (row >= rows) return;
    unsigned sequence = row_sequence[row], position = positions[row];
    if (sequence >= (unsigned)sequences || position >= (unsigned)bound_pages * PAGE) return;
    unsigned page = table[(long long)sequence * table_width + position / PAGE];
    if (page >= (unsigned)page_count) return;
    T* head = pages + ((long long)page * kv_heads + kv_head) * PAGE * (dim + value_dim);
    auto copy = [&](const T* from, T* to, int width) {
        if (packs) {
            for (int i = lane * Pack::N; i < width; i += 32 * Pack::N) store_pack(to + i, load_pack(from + i));
        } else {
            for (int i = lane; i < width; i += 32) to[i] = from[i];
        }
    };
    copy(k + unit * dim, head + position % PAGE * dim, dim);
    copy(v + unit * value_dim, head + PAGE * dim + position % PAGE * value_dim, value_dim);
}
