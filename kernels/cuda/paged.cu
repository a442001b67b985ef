// Attention over a cache of pages on tensor cores; see paged.cuh. For 16-bit types, and rows made of 16-byte chunks.

__device__ __forceinline__ unsigned shared_address(const void* at) { return (unsigned)__cvta_generic_to_shared(at); }

__device__ __forceinline__ void load_matrices(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(unsigned (&to)[2], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ unsigned transpose(unsigned x) {
    unsigned y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

#if ELEMENT == 1
#define PRODUCT "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#define CONVERT "cvt.rn.bf16x2.f32 "
#else
#define PRODUCT "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#define CONVERT "cvt.rn.f16x2.f32 "
#endif
__device__ __forceinline__ void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm(PRODUCT "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ unsigned pack_two(float low, float high) {
    unsigned y;
    asm(CONVERT "%0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
    __syncwarp();
}

// A warp's rows of keys or values in shared memory. The 16-byte chunks of a row are permuted, so that eight rows' chunks
// of a column lie in different banks.
struct Rows {
    unsigned address;
    int chunks, shift;

    __device__ __forceinline__ Rows(int width) : address(0), chunks(width / 8) {
        int even = min(chunks & -chunks, 8);
        shift = even == 8 ? 0 : even == 4 ? 1 : even == 2 ? 2 : 3;
    }
    __device__ __forceinline__ unsigned chunk(int row, int index) const {
        return address + (row * chunks + (index ^ ((row & 7) >> shift))) * 16;
    }
    // Starts copying the rows [low, high) of sixteen; the others become zero.
    __device__ __forceinline__ void copy(const T* from, int low, int high) const {
        int lane = threadIdx.x & 31;
        int row = lane / chunks, column = lane % chunks, rows = 32 / chunks, columns = 32 % chunks;
#pragma unroll 4
        for (int i = lane; i < WARP_KEYS * chunks; i += 32) {
            int bytes = row >= low && row < high ? 16 : 0;
            asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(chunk(row, column)),
                         "l"(from + i * 8), "r"(bytes)
                         : "memory");
            row += rows;
            column += columns;
            if (column >= chunks) {
                column -= chunks;
                row++;
            }
        }
    }
    // One warp: replaces a row.
    __device__ __forceinline__ void set(int row, const T* from) const {
        int lane = threadIdx.x & 31;
        if (lane < chunks) {
            uint4 x = *reinterpret_cast<const uint4*>(from + lane * 8);
            asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(chunk(row, lane)), "r"(x.x), "r"(x.y),
                         "r"(x.z), "r"(x.w)
                         : "memory");
        }
        __syncwarp();
    }
};

// Values of up to 16 * TILES numbers, 8 * EIGHTS slots. Widths are multiples of eight.
template <int TILES, int EIGHTS> __device__ __forceinline__ void attend(const Call& call) {
    constexpr int SLOTS = 8 * EIGHTS;
    extern __shared__ __align__(128) char memory[];
    begin_after_earlier_kernels();
    Place place;
    if (!find_place<SLOTS>(call, place)) return;
    Layout at(memory, call, SLOTS);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (threadIdx.x < 4) reinterpret_cast<unsigned*>(memory)[threadIdx.x] = 0;

    Rows keys(call.dim), values(call.value_dim);
    unsigned region = shared_address(at.region), tile_bytes = WARP_KEYS * (call.dim + call.value_dim) * 2;
    int key_bytes = WARP_KEYS * call.dim * 2;
    const unsigned* page_ids = call.table + (long long)place.sequence * call.table_width;
    int first_tile = place.from / PAGE, tiles = (place.to - 1) / PAGE - first_tile + 1;
    int known = call.k_new ? min(place.to, place.position) : place.to;
    unsigned ids = 0;
    bool bad = false;
    auto use_stage = [&](int tile) {
        keys.address = region + (warp * call.stages + tile % call.stages) * tile_bytes;
        values.address = keys.address + key_bytes;
    };
    auto first_key = [&](int tile) { return (first_tile + tile) * PAGE + warp * WARP_KEYS; };
    auto is_seen = [&](int tile) { return first_key(tile) < place.to && first_key(tile) + WARP_KEYS > place.from; };
    auto fetch = [&](int tile) {
        if (tile < tiles) {
            if (tile % 32 == 0) ids = tile + lane < tiles ? page_ids[first_tile + tile + lane] : 0;
            unsigned page = __shfl_sync(0xffffffffu, ids, tile % 32);
            if (is_seen(tile)) {
                if (page >= (unsigned)call.page_count) {
                    bad = true;
                    page = 0;
                }
                use_stage(tile);
                int low = place.from - first_key(tile), high = known - first_key(tile);
                const T* head = head_of_page(call, page, place.kv_head);
                keys.copy(head + warp * WARP_KEYS * call.dim, low, high);
                commit_copies();
                values.copy(head + PAGE * call.dim + warp * WARP_KEYS * call.value_dim, low, high);
                commit_copies();
                return;
            }
        }
        commit_copies();
        commit_copies();
    };
    fetch(0);
    prepare_queries<8>(call, place, at, SLOTS);
    __syncthreads();

    float sums[EIGHTS][TILES][4], maxima[EIGHTS][2], totals[EIGHTS][2];
    int last_key[EIGHTS][2];
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int slot = n * 8 + lane % 4 * 2 + j;
            last_key[n][j] = slot < place.used() ? place.position + slot / place.heads : -1;
            maxima[n][j] = minus_infinity();
            totals[n][j] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) sums[n][i][j] = 0.0f;
        }
    }
    unsigned zeros = shared_address(at.zeros);
    unsigned query = shared_address(at.q) + ((lane & 7) * at.q_stride + (lane >> 3 & 1) * 8) * 2;

    for (int tile = 0; tile < tiles; tile++) {
        __syncwarp();
        fetch(tile + 1);
        wait_for_copies<3>();
        if (!is_seen(tile)) continue;
        use_stage(tile);
        int own = call.k_new && place.newest ? place.position - first_key(tile) : -1;
        bool has_own = own >= 0 && own < WARP_KEYS;
        if (has_own) keys.set(own, at.key);

        // Even and odd steps add up apart: a shorter chain.
        float even[EIGHTS][4], odd[EIGHTS][4];
#pragma unroll
        for (int n = 0; n < EIGHTS; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) even[n][j] = odd[n][j] = 0.0f;
        }
        auto step = [&](int k, float(&to)[EIGHTS][4]) {
            unsigned a[4];
            int chunk = 2 * k + (lane >> 4);
            load_matrices(a, chunk < keys.chunks ? keys.chunk(lane & 15, chunk) : zeros);
#pragma unroll
            for (int n = 0; n < EIGHTS; n++) {
                unsigned b[2];
                load_matrices(b, query + (n * 8 * at.q_stride + k * 16) * 2);
                multiply_add(to[n], a, b);
            }
        };
        int steps = ceil_div(call.dim, 16);
#pragma unroll 2
        for (int k = 0; k < steps; k += 2) {
            step(k, even);
            if (k + 1 < steps) step(k + 1, odd);
        }

        unsigned weights[EIGHTS][2];
#pragma unroll
        for (int n = 0; n < EIGHTS; n++) {
            float x[4], shrink[2];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int key = first_key(tile) + lane / 4 + j / 2 * 8;
                // Negative differences are large when unsigned.
                bool seen = (unsigned)(last_key[n][j & 1] - key) < (unsigned)call.window;
                x[j] = seen ? exponent(call, even[n][j] + odd[n][j]) : minus_infinity();
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float m = fmaxf(x[j], x[j + 2]);
#pragma unroll
                for (int offset = 4; offset < 32; offset *= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, offset));
                m = fmaxf(m, maxima[n][j]);
                float base = m == minus_infinity() ? 0.0f : m;
                shrink[j] = exp2_fast(maxima[n][j] - base);
                maxima[n][j] = m;
                x[j] = exp2_fast(x[j] - base);
                x[j + 2] = exp2_fast(x[j + 2] - base);
                totals[n][j] = __fmaf_rn(totals[n][j], shrink[j], x[j] + x[j + 2]);
            }
            weights[n][0] = transpose(pack_two(x[0], x[1]));
            weights[n][1] = transpose(pack_two(x[2], x[3]));
#pragma unroll
            for (int i = 0; i < TILES; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) sums[n][i][j] *= shrink[j & 1];
            }
        }

        wait_for_copies<2>();
        if (has_own) values.set(own, at.value);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            int chunk = 2 * i + (lane >> 3 & 1);
            if (2 * i < values.chunks) {
                unsigned a[4];
                load_transposed(a, values.chunk((lane & 7) + (lane >> 4) * 8, chunk < values.chunks ? chunk : 0));
#pragma unroll
                for (int n = 0; n < EIGHTS; n++) multiply_add(sums[n][i], a, weights[n]);
            }
        }
    }
    wait_for_copies<0>();
    __syncthreads();    // the tiles are not needed any more

    float* to = reinterpret_cast<float*>(at.region);
    int stride = call.value_dim + 4;
#pragma unroll
    for (int n = 0; n < EIGHTS; n++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int slot = n * 8 + lane % 4 * 2 + j;
            float total = totals[n][j];
#pragma unroll
            for (int offset = 4; offset < 32; offset *= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
            if (slot >= place.used()) continue;
            if (lane < 4) {
                at.maxima[warp * SLOTS + slot] = maxima[n][j];
                at.sums[warp * SLOTS + slot] = bad ? not_a_number() : total;
            }
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                float* row = to + (warp * SLOTS + slot) * stride + i * 16 + lane / 4;
                if (2 * i < values.chunks) row[0] = sums[n][i][j];
                if (2 * i + 1 < values.chunks) row[8] = sums[n][i][j + 2];
            }
        }
    }
    finish<SLOTS>(call, place, at);
}

#define ATTEND(name, blocks, tiles, eights)                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, blocks) name(PARAMETERS) { \
        Call call = ARGUMENTS;                                                           \
        call.whole = eights > 1;                                                         \
        if (call.whole) call.k_new = nullptr;                                            \
        attend<tiles, eights>(call);                                                     \
    }
// Few rows of a sequence, split over its keys.
ATTEND(paged_split_64, 5, 4, 1)
ATTEND(paged_split_128, 6, 8, 1)
ATTEND(paged_split_256, 3, 16, 1)
// Many rows of a sequence; a block takes all keys.
ATTEND(paged_whole_64, 3, 4, 4)
ATTEND(paged_whole_128, 2, 8, 4)
ATTEND(paged_whole_256, 2, 16, 2)
