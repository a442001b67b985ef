// The next token of each row of logits, and the step of a decoding loop.
//
// A cluster of eight blocks takes a row: each keeps its part, a stretch of the vocabulary, in shared memory, and each
// thread owns `each` consecutive tokens there (an odd number, so that a warp's threads meet different banks). Sets of a
// thread's tokens are 64-bit masks. Filters look for a threshold: bisection on the order of floats, in which each round
// leaves fewer tokens to look at. What a round finds is summed over the cluster in a fixed order and known to all threads,
// so all take the same way. Probabilities are relative to the largest; sums are made in double words.
//
// The kernels are links of a chain of dependent launches, as in decode.cu.

typedef unsigned long long u64;

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr int CLUSTER = 8;
constexpr unsigned ALL = 0xffffffffu;
constexpr float LARGEST = 3.402823466e38f;

// As SampleSettings in sampling.rs.
struct Settings {
    float temperature, top_p, min_p;
    unsigned top_k;
    u64 seed, position;
};

__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float negative_infinity() { return __int_as_float(0xff800000); }

// Counter-based random numbers: splitmix64 (Steele, Lea and Flood, 2014) of the position, from a start mixed from the seed.
__device__ __forceinline__ u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
__device__ __forceinline__ double uniform(u64 seed, u64 position) {
    const u64 golden = 0x9e3779b97f4a7c15ull;
    u64 bits = mix(mix(seed + golden) + (position + 1) * golden);
    return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

// Integers in the order of the floats.
__device__ __forceinline__ unsigned key_of(float value) {
    unsigned bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// A sum with the rounding errors of its additions (Knuth's two-sum).
struct Sum {
    float high = 0.0f, low = 0.0f;

    __device__ __forceinline__ void add(float x) {
        float sum = high + x, part = sum - high;
        low += (high - (sum - part)) + (x - part);
        high = sum;
    }
    __device__ __forceinline__ double value() const { return (double)high + (double)low; }
};

// What is found by a pass over the row: a sum, a minimum and a maximum.
struct Part {
    double sum;
    unsigned least, most;
};

__device__ __forceinline__ Part combined(const Part& a, const Part& b) {
    return Part{a.sum + b.sum, min(a.least, b.least), max(a.most, b.most)};
}

__device__ __forceinline__ Part over_warp(Part part) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) part.sum += __shfl_xor_sync(ALL, part.sum, offset);
    part.least = __reduce_min_sync(ALL, part.least);
    part.most = __reduce_max_sync(ALL, part.most);
    return part;
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Waits for all threads of the cluster; what they wrote is seen behind it.
__device__ __forceinline__ void cluster_barrier() {
    asm volatile("barrier.cluster.arrive;\n\tbarrier.cluster.wait;" ::: "memory");
}

// Writes to the place in block `rank` of the cluster that `mine` is in this block.
__device__ __forceinline__ void store_to_peer(Part* mine, unsigned rank, const Part& part) {
    unsigned here = (unsigned)__cvta_generic_to_shared(mine), there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(there), "d"(part.sum) : "memory");
    asm volatile("st.shared::cluster.v2.u32 [%0+8], {%1, %2};" ::"r"(there), "r"(part.least), "r"(part.most) : "memory");
}

// What the blocks of a cluster exchange.
struct Exchange {
    Part warp[WARPS];
    double before_warp[WARPS];
    // Twice, for a round may begin before all have read the last one's.
    Part block[2][CLUSTER];
};

// A running sum in the order of the tokens.
struct Prefix {
    double before, end, total;
};

struct Cluster {
    Exchange& exchange;
    unsigned rank;
    int round = 0;

    __device__ __forceinline__ explicit Cluster(Exchange& exchange) : exchange(exchange), rank(cluster_rank()) {}

    __device__ __forceinline__ void send(const Part& part) {
        int lane = threadIdx.x & 31;
        if (lane < CLUSTER) store_to_peer(&exchange.block[round & 1][rank], lane, part);
    }

    // Over all threads of the cluster.
    __device__ Part reduce(Part part) {
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        part = over_warp(part);
        if (lane == 0) exchange.warp[warp] = part;
        __syncthreads();
        if (warp == 0) send(over_warp(exchange.warp[lane]));
        cluster_barrier();
        part = exchange.block[round & 1][0];
#pragma unroll
        for (int i = 1; i < CLUSTER; i++) part = combined(part, exchange.block[round & 1][i]);
        round++;
        return part;
    }

    // A thread's `before` has the bits of the `end` of the thread before it, within a warp.
    __device__ Prefix scan(double own) {
        int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        auto inclusive = [lane](double x) {
#pragma unroll
            for (int offset = 1; offset < 32; offset <<= 1) {
                double left = __shfl_up_sync(ALL, x, offset);
                if (lane >= offset) x += left;
            }
            return x;
        };
        auto exclusive = [lane](double inclusive) {
            double left = __shfl_up_sync(ALL, inclusive, 1);
            return lane == 0 ? 0.0 : left;
        };
        double end = inclusive(own), before = exclusive(end);
        if (lane == 31) exchange.warp[warp].sum = end;
        __syncthreads();
        if (warp == 0) {
            double warps = inclusive(exchange.warp[lane].sum);
            exchange.before_warp[lane] = exclusive(warps);
            send(Part{__shfl_sync(ALL, warps, 31), 0, 0});
        }
        cluster_barrier();
        double start = 0.0, total = 0.0;
#pragma unroll
        for (int i = 0; i < CLUSTER; i++) {
            if (i == rank) start = total;
            total += exchange.block[round & 1][i].sum;
        }
        round++;
        double warp_start = exchange.before_warp[warp];
        return Prefix{start + (warp_start + before), start + (warp_start + end), total};
    }
};

// The tokens of a thread and what is known of the row.
struct Row {
    // This thread's logits, divided by the temperature.
    const float* logits;
    float greatest;

    // Relative to the most likely token's.
    __device__ __forceinline__ float probability(float logit) const {
        return logit == greatest ? 1.0f : expf(logit - greatest);
    }

    // Calls `visit(bit, logit)` for each token of a set, in order.
    template <typename F> __device__ __forceinline__ void for_each(u64 set, F visit) const {
        for (; set; set &= set - 1) {
            int index = __ffsll((long long)set) - 1;
            visit(1ull << index, logits[index]);
        }
    }
};

// Tokens above a threshold, and those that equal it.
struct Found {
    u64 above, equal;
    double weight_above;
    float threshold;
};

// The largest logit such that the tokens of `set` with at least it weigh `need`: by number, or by probability. `low` and
// `greatest` are the smallest and largest logits of the set.
__device__ Found search(Cluster& cluster, const Row& row, u64 set, float low_logit, double need, bool by_probability) {
    Found found{0, set, 0.0, 0.0f};
    // Invariant: tokens from `high` on are those of `above` and weigh less than `need`; the answer lies in low..high, and
    // `low` is some token's.
    unsigned low = key_of(low_logit), high = key_of(row.greatest) + 1;
    while (high - low > 1) {
        float pivot = value_of(low + (high - low) / 2);
        Sum sum;
        u64 upper = 0;
        float least = -negative_infinity(), most = negative_infinity();
        row.for_each(found.equal, [&](u64 bit, float logit) {
            if (logit >= pivot) {
                upper |= bit;
                sum.add(by_probability ? row.probability(logit) : 1.0f);
                least = fminf(least, logit);
            } else {
                most = fmaxf(most, logit);
            }
        });
        Part part = cluster.reduce(Part{sum.value(), key_of(least), key_of(most)});
        double weight = found.weight_above + part.sum;
        // Even where nothing is needed, the most likely token is.
        if (weight >= need && part.least < key_of(-negative_infinity())) {
            low = part.least;
            found.equal = upper;
        } else {
            high = part.most + 1;
            found.above |= upper;
            found.equal &= ~upper;
            found.weight_above = weight;
        }
    }
    found.threshold = value_of(low);
    return found;
}

// Reads the block's part of the row; counts what is not finite, and finds the least and greatest logits.
__device__ __forceinline__ Part read_row(const T* from, int count, int slots, float temperature, bool packed, float* to) {
    unsigned wrong = 0;
    float least = -negative_infinity(), most = negative_infinity();
    auto prepare = [&](T stored) {
        float logit = to_float(stored);
        if (!(fabsf(logit) <= LARGEST)) {
            wrong++;
            return negative_infinity();
        }
        if (temperature > 0.0f) logit = fminf(fmaxf(logit / temperature, -LARGEST), LARGEST);
        // No negative zero.
        logit += 0.0f;
        least = fminf(least, logit);
        most = fmaxf(most, logit);
        return logit;
    };
    if (packed) {
        constexpr int N = Pack::N;
#pragma unroll 4
        for (int at = threadIdx.x * N; at < slots; at += THREADS * N) {
            float logits[N];
            Pack pack;
            bool inside = at < count;
            if (inside) pack = load_pack(from + at);
#pragma unroll
            for (int i = 0; i < N; i++) logits[i] = inside ? prepare(pack.at[i]) : negative_infinity();
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                *reinterpret_cast<float4*>(to + at + i) = make_float4(logits[i], logits[i + 1], logits[i + 2], logits[i + 3]);
            }
        }
    } else {
        for (int at = threadIdx.x; at < slots; at += THREADS) {
            to[at] = at < count ? prepare(from[at]) : negative_infinity();
        }
    }
    return Part{(double)wrong, key_of(least), key_of(most)};
}

// Temperature, then top-k, top-p and min-p, each on what the one before it left, then a draw; temperature 0: the first of
// the most likely tokens. A row with a number that is not finite gets status 1 and its most likely finite token.
// `each` is at most 63; `packed`: rows are made of aligned packs.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    sample(const T* all_logits, int vocabulary, int each, int packed, const Settings* all_settings, unsigned* tokens,
           unsigned* status) {
    extern __shared__ __align__(16) float shared[];
    __shared__ Exchange exchange;
    Cluster cluster(exchange);
    launch_dependents();
    // All blocks run before one writes to another.
    cluster_barrier();
    wait_for_predecessors();

    long long index = blockIdx.x / CLUSTER;
    const Settings settings = all_settings[index];
    int slots = THREADS * each, start = cluster.rank * slots, count = max(min(vocabulary - start, slots), 0);
    const T* from = all_logits + index * vocabulary + (count > 0 ? start : 0);
    Part part = cluster.reduce(read_row(from, count, slots, settings.temperature, packed, shared));
    bool sound = part.sum == 0.0;
    Row row{shared + threadIdx.x * each, value_of(part.most)};
    float least = value_of(part.least);
    int first = threadIdx.x * each, own = max(min(count - first, each), 0);
    u64 kept = (1ull << own) - 1;

    if (!sound || !(settings.temperature > 0.0f)) {
        unsigned best = ALL;
        row.for_each(kept, [&](u64 bit, float logit) {
            if (logit == row.greatest) best = min(best, (unsigned)(start + first + __ffsll((long long)bit) - 1));
        });
        part = cluster.reduce(Part{0.0, best, 0});
        if (cluster.rank == 0 && threadIdx.x == 0) {
            tokens[index] = part.least == ALL ? 0 : part.least;
            status[index] = sound ? 0 : 1;
        }
        return;
    }

    if (settings.top_k > 0 && settings.top_k < vocabulary) {
        Found found = search(cluster, row, kept, least, settings.top_k, false);
        kept = found.above | found.equal;
        least = found.threshold;
    }
    if (settings.top_p < 1.0f) {
        Sum sum;
        row.for_each(kept, [&](u64, float logit) { sum.add(row.probability(logit)); });
        double total = cluster.reduce(Part{sum.value(), 0, 0}).sum;
        double need = total - (1.0 - (double)settings.top_p) * total;
        Found found = search(cluster, row, kept, least, need, true);
        // Of equal tokens, the first as many as are needed.
        Prefix ties = cluster.scan((double)__popcll(found.equal));
        double probability = row.probability(found.threshold);
        double wanted = probability > 0.0 ? ceil((need - found.weight_above) / probability) : ties.total;
        double allowed = fmax(wanted, 1.0) - ties.before;
        while (found.equal && (double)__popcll(found.equal) > allowed) {
            found.equal &= ~(1ull << (63 - __clzll((long long)found.equal)));
        }
        kept = found.above | found.equal;
    }
    if (settings.min_p > 0.0f) {
        double lowest = log((double)settings.min_p);
        row.for_each(kept, [&](u64 bit, float logit) {
            if (logit != row.greatest && (double)(logit - row.greatest) < lowest) kept &= ~bit;
        });
    }

    Sum sum;
    row.for_each(kept, [&](u64, float logit) { sum.add(row.probability(logit)); });
    Prefix prefix = cluster.scan(sum.value());
    double target = uniform(settings.seed, settings.position) * prefix.total;
    // The first thread whose end passes the target has the token; by rounding none may, then the last with tokens has it.
    unsigned id = cluster.rank * THREADS + threadIdx.x;
    part = cluster.reduce(Part{0.0, kept && prefix.end > target ? id : ALL, kept ? id : 0});
    if (id != (part.least == ALL ? part.most : part.least)) return;
    double sum_so_far = prefix.before;
    unsigned token = 0;
    bool found = false;
    row.for_each(kept, [&](u64 bit, float logit) {
        if (found) return;
        sum_so_far += (double)row.probability(logit);
        token = start + first + __ffsll((long long)bit) - 1;
        found = sum_so_far > target;
    });
    tokens[index] = token;
    status[index] = 0;
}

#endif

// Between two steps of decoding: hands the sampled tokens on as the next inputs, moves positions, lengths and random
// numbers on by one, and keeps the tokens in row *step % steps of `history`.
extern "C" __global__ void __launch_bounds__(256) advance(const unsigned* sampled, int rows, unsigned* next,
                                                          unsigned* positions, unsigned* lengths, Settings* settings,
                                                          unsigned* history, unsigned steps, unsigned* step) {
    launch_dependents();
    wait_for_predecessors();
    unsigned now = *step;
    // All have read it before it changes.
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += 256) {
        unsigned token = sampled[row];
        next[row] = token;
        positions[row] += 1;
        lengths[row] += 1;
        if (settings) settings[row].position += 1;
        history[(u64)(now % steps) * rows + row] = token;
    }
    if (threadIdx.x == 0) *step = now + 1;
}
