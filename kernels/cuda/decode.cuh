// What the kernels of decode.cu and decode_plain.cu compute; see decode.rs.

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr int MOST_ROWS = 16;

// What a launch computes; see FewRows in decode.rs.
struct Work {
    const T* x;
    int rows, k;
    const float* norm_weight;
    float norm_offset, norm_eps;
    bool normalise;
    const T* weight[4];
    const T* bias[4];
    void* out[4];
    int n[4];
    // Bit i: out[i] is f32.
    int wide;
    const T* residual;
    // Of the gated unit of matrices 0 and 1, or -1.
    int activation;
};

#define WORK_PARAMETERS                                                                                                \
    const T *x, int rows, int k, int normalise, const float *norm_weight, float norm_offset, float norm_eps,          \
        const T *w0, const T *w1, const T *w2, const T *w3, const T *b0, const T *b1, const T *b2, const T *b3,       \
        void *o0, void *o1, void *o2, void *o3, int n0, int n1, int n2, int n3, int wide, const T *residual,          \
        int activation
#define WORK                                                                                                           \
    Work {                                                                                                             \
        x, rows, k, norm_weight, norm_offset, norm_eps, normalise != 0, {w0, w1, w2, w3}, {b0, b1, b2, b3},            \
            {o0, o1, o2, o3}, {n0, n1, n2, n3}, wide, residual, activation                                             \
    }

// Waits until all earlier work of the chain has ended and its writes are seen.
__device__ __forceinline__ void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel start; it waits as we do.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename P> __device__ __forceinline__ P pick(const P (&from)[4], int index) {
    return index == 0 ? from[0] : index == 1 ? from[1] : index == 2 ? from[2] : from[3];
}

// A row of one of the matrices.
struct Place {
    int matrix, row;
};

// Row `index` of all matrices one below the other.
__device__ __forceinline__ Place place_of(const Work& work, int index) {
    Place place{0, index};
#pragma unroll
    for (int i = 0; i < 3; i++) {
        if (place.matrix == i && place.row >= work.n[i]) {
            place.row -= work.n[i];
            place.matrix = i + 1;
        }
    }
    return place;
}

// The units of work: rows of all matrices, or pairs of a gate's and its partner's row.
__device__ __forceinline__ int unit_count(const Work& work) {
    return work.activation >= 0 ? work.n[0] : work.n[0] + work.n[1] + work.n[2] + work.n[3];
}

// As `Activation` in decode.rs numbers them.
__device__ float activate(int activation, float x) {
    switch (activation) {
    case 0: return x / (1.0f + expf(-x));
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 2: return x / (1.0f + expf(-1.595769f * x * fmaf(0.044715f, x * x, 1.0f)));
    case 3: return x < 0.0f ? 0.0f : x;
    case 4: return 1.0f / (1.0f + expf(-x));
    case 5: return tanhf(x);
    case 6: return expf(x);
    case 7: return x * x;
    case 8: return 1.0f / sqrtf(x);
    case 9: return sqrtf(x);
    case 10: return -x;
    case 11: return logf(x);
    case 12: return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)));
    default: {
        float r = x < 0.0f ? 0.0f : x;
        return r * r;
    }
    }
}

// One number of the result, with all that is added to it. It reads its addends early, long before `finish`.
struct Result {
    Place place;
    int row;
    float bias, partner_bias, residual;

    __device__ __forceinline__ Result() : place{0, 0}, row(0), bias(0), partner_bias(0), residual(0) {}
    __device__ __forceinline__ Result(const Work& work, int row, int unit) : row(row), bias(0), partner_bias(0), residual(0) {
        place = work.activation >= 0 ? Place{0, unit} : place_of(work, unit);
        const T* of = pick(work.bias, place.matrix);
        if (of) bias = to_float(of[place.row]);
        if (work.activation >= 0 && work.bias[1]) partner_bias = to_float(work.bias[1][place.row]);
        if (work.residual) residual = to_float(work.residual[(long long)row * work.n[0] + place.row]);
    }

    // `partner` is the second product of a gated unit.
    __device__ __forceinline__ void finish(const Work& work, float product, float partner) const {
        float value = product + bias;
        if (work.activation >= 0) {
            float gate = to_float(from_float(value)), up = to_float(from_float(partner + partner_bias));
            value = activate(work.activation, gate) * up;
        }
        value += residual;
        long long at = (long long)row * pick(work.n, place.matrix) + place.row;
        void* out = pick(work.out, place.matrix);
        if (work.wide >> place.matrix & 1) {
            static_cast<float*>(out)[at] = value;
        } else {
            static_cast<T*>(out)[at] = from_float(value);
        }
    }
};
