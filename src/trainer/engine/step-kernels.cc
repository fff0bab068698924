// Operations of TensorFlow that a training step needs and TensorFlow has not: what lies between two matrix
// products in one pass over memory, from the products' own numbers (T: float or bfloat16) to the next
// product's. Sums and everything else within an operation are in float. src/trainer/model/passes.ts has
// the same in tensor operations and says what each computes.
#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernel-call.h"

namespace {

// e to the x for x up to 88, to two units in the last place; 0 below -87.
inline float Exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves a whole number in the low bits
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : mantissa * power;
}

inline float Sigmoid(float x) {
  const float limited = x < -80.0f ? -80.0f : x;
  return 1.0f / (1.0f + Exp(limited > 87.0f ? -87.0f : -limited));
}

template <typename T>
float Max(const T* row, int64_t columns) {
  float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < columns; i++) most = Load(row[i]) > most ? Load(row[i]) : most;
  return most;
}

// logits [C, V], labels [C] -> numerators [C, V], sums [C, 1], losses [C]
template <typename T, TF_DataType kType>
void CrossEntropy(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *logits = call.Input(0), *labels = call.Input(1);
  if (!call.IsOk()) return;
  const int64_t rows = TF_TensorElementCount(labels), columns = Columns(logits);
  if (!call.Require(TF_TensorElementCount(logits) == rows * columns, "a label for each row of logits")) return;
  TF_Tensor* numerators = call.Output(0, kType, logits);
  TF_Tensor* sums = call.Output(1, TF_FLOAT, logits, 1);
  TF_Tensor* losses = call.Output(2, TF_FLOAT, labels);
  if (!call.IsOk()) return;
#pragma omp parallel for schedule(static) if (rows * columns > kMinParallel)
  for (int64_t row = 0; row < rows; row++) {
    const T* in = Data<T>(logits) + row * columns;
    T* out = Data<T>(numerators) + row * columns;
    const int32_t label = Data<int32_t>(labels)[row];
    const float most = Max(in, columns);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; i++) {
      const float e = Exp(Load(in[i]) - most);
      sum += e;
      Store(out + i, e);
    }
    const float target = Load(in[label]) - most;
    Store(out + label, Exp(target) - sum);
    Data<float>(sums)[row] = sum;
    Data<float>(losses)[row] = __builtin_logf(sum) - target;
  }
}

// scores [..., R, keys], mask [R, keys] -> exponentials [..., R, keys], sums [..., R, 1]
template <typename T, TF_DataType kType>
void Softmax(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *scores = call.Input(0), *mask = call.Input(1);
  if (!call.IsOk()) return;
  const int64_t columns = Columns(scores), rows = TF_TensorElementCount(scores) / columns;
  const int64_t mask_rows = TF_TensorElementCount(mask) / columns;
  if (!call.Require(Columns(mask) == columns && rows % mask_rows == 0, "a mask that fits the scores")) return;
  TF_Tensor* exponentials = call.Output(0, kType, scores);
  TF_Tensor* sums = call.Output(1, TF_FLOAT, scores, 1);
  if (!call.IsOk()) return;
#pragma omp parallel for schedule(static) if (rows * columns > kMinParallel)
  for (int64_t row = 0; row < rows; row++) {
    const T* in = Data<T>(scores) + row * columns;
    const float* hidden = Data<float>(mask) + row % mask_rows * columns;
    T* out = Data<T>(exponentials) + row * columns;
    float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < columns; i++) {
      const float score = Load(in[i]) + hidden[i];
      most = score > most ? score : most;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; i++) {
      const float e = Exp(Load(in[i]) + hidden[i] - most);
      sum += e;
      Store(out + i, e);
    }
    Data<float>(sums)[row] = sum;
  }
}

// exponentials [..., R, keys], products [..., R, keys], delta [..., R, 1] -> e * (p - delta)
template <typename T, TF_DataType kType>
void SoftmaxGradient(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *exponentials = call.Input(0), *products = call.Input(1), *delta = call.Input(2);
  if (!call.IsOk()) return;
  const int64_t columns = Columns(products), rows = TF_TensorElementCount(delta);
  if (!call.Require(TF_TensorElementCount(products) == rows * columns &&
                        TF_TensorElementCount(exponentials) == rows * columns,
                    "a delta for each row"))
    return;
  TF_Tensor* result = call.Output(0, kType, products);
  if (!call.IsOk()) return;
#pragma omp parallel for schedule(static) if (rows * columns > kMinParallel)
  for (int64_t row = 0; row < rows; row++) {
    const T* e = Data<T>(exponentials) + row * columns;
    const T* p = Data<T>(products) + row * columns;
    T* out = Data<T>(result) + row * columns;
    const float d = Data<float>(delta)[row];
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) Store(out + i, Load(e[i]) * (Load(p[i]) - d));
  }
}

// gate, up -> silu(gate) * up, all of one shape
template <typename T, TF_DataType kType>
void Swiglu(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *gate = call.Input(0), *up = call.Input(1);
  if (!call.IsOk()) return;
  const int64_t size = TF_TensorElementCount(gate);
  if (!call.Require(TF_TensorElementCount(up) == size, "gate and up of one shape")) return;
  TF_Tensor* activation = call.Output(0, kType, gate);
  if (!call.IsOk()) return;
  const T *g = Data<T>(gate), *u = Data<T>(up);
  T* out = Data<T>(activation);
#pragma omp parallel for simd schedule(static) if (parallel : size > kMinParallel)
  for (int64_t i = 0; i < size; i++) {
    const float x = Load(g[i]);
    Store(out + i, x * Sigmoid(x) * Load(u[i]));
  }
}

// d_activation, gate, up -> d_gate, d_up, all of one shape
template <typename T, TF_DataType kType>
void SwigluGradient(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *d_activation = call.Input(0), *gate = call.Input(1), *up = call.Input(2);
  if (!call.IsOk()) return;
  const int64_t size = TF_TensorElementCount(gate);
  if (!call.Require(TF_TensorElementCount(up) == size && TF_TensorElementCount(d_activation) == size,
                    "gradient, gate and up of one shape"))
    return;
  TF_Tensor* d_gate = call.Output(0, kType, gate);
  TF_Tensor* d_up = call.Output(1, kType, gate);
  if (!call.IsOk()) return;
  const T *d = Data<T>(d_activation), *g = Data<T>(gate), *u = Data<T>(up);
  T *dg = Data<T>(d_gate), *du = Data<T>(d_up);
#pragma omp parallel for simd schedule(static) if (parallel : size > kMinParallel)
  for (int64_t i = 0; i < size; i++) {
    const float x = Load(g[i]), gradient = Load(d[i]);
    const float sigmoid = Sigmoid(x);
    const float silu = x * sigmoid;
    Store(du + i, gradient * silu);
    Store(dg + i, gradient * Load(u[i]) * (sigmoid + silu * (1.0f - sigmoid)));
  }
}

// x [N, D], weight [D], epsilon [] -> y [N, D], inverse [N, 1]
void RmsNorm(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *x = call.Input(0), *weight = call.Input(1), *epsilon = call.Input(2);
  if (!call.IsOk()) return;
  const int64_t columns = TF_TensorElementCount(weight), rows = TF_TensorElementCount(x) / columns;
  if (!call.Require(Columns(x) == columns, "a weight for each column")) return;
  TF_Tensor* y = call.Output(0, TF_FLOAT, x);
  TF_Tensor* inverses = call.Output(1, TF_FLOAT, x, 1);
  if (!call.IsOk()) return;
  const float *w = Data<float>(weight), eps = *Data<float>(epsilon);
#pragma omp parallel for schedule(static) if (rows * columns > kMinParallel)
  for (int64_t row = 0; row < rows; row++) {
    const float* in = Data<float>(x) + row * columns;
    float* out = Data<float>(y) + row * columns;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < columns; i++) sum += in[i] * in[i];
    const float inverse = 1.0f / std::sqrt(sum / columns + eps);
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) out[i] = in[i] * inverse * w[i];
    Data<float>(inverses)[row] = inverse;
  }
}

// dy [N, D], x [N, D], weight [D], inverse [N, 1] -> dx [N, D], d_weight [D]
void RmsNormGradient(void*, TF_OpKernelContext* context) {
  Call call(context);
  const TF_Tensor *dy = call.Input(0), *x = call.Input(1), *weight = call.Input(2), *inverses = call.Input(3);
  if (!call.IsOk()) return;
  const int64_t columns = TF_TensorElementCount(weight), rows = TF_TensorElementCount(inverses);
  if (!call.Require(TF_TensorElementCount(x) == rows * columns && TF_TensorElementCount(dy) == rows * columns,
                    "a weight for each column and an inverse for each row"))
    return;
  TF_Tensor* dx = call.Output(0, TF_FLOAT, x);
  TF_Tensor* d_weight = call.Output(1, TF_FLOAT, weight);
  if (!call.IsOk()) return;
  const float* w = Data<float>(weight);
  // Each thread sums its rows, and the sums are added in the order of the threads.
  const int threads = rows * columns > kMinParallel ? omp_get_max_threads() : 1;
  std::vector<float> partial(threads * columns, 0.0f);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < rows; row++) {
    const float *in = Data<float>(x) + row * columns, *gradient = Data<float>(dy) + row * columns;
    float *out = Data<float>(dx) + row * columns, *sums = partial.data() + omp_get_thread_num() * columns;
    const float inverse = Data<float>(inverses)[row];
    float along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < columns; i++) {
      const float product = gradient[i] * in[i] * inverse;
      sums[i] += product;
      along += product * w[i];
    }
    const float mean = along / columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) out[i] = inverse * (gradient[i] * w[i] - in[i] * inverse * mean);
  }
  float* total = Data<float>(d_weight);
  std::memcpy(total, partial.data(), columns * sizeof(float));
  for (int thread = 1; thread < threads; thread++) {
    for (int64_t i = 0; i < columns; i++) total[i] += partial[thread * columns + i];
  }
}

struct Registration {
  Registration() {
    const char* const logits[] = {"logits: T", "labels: int32", nullptr};
    const char* const numerators[] = {"numerators: T", "sums: float", "losses: float", nullptr};
    Register("GaloreCrossEntropy", logits, numerators, &CrossEntropy<float, TF_FLOAT>,
             &CrossEntropy<Bf16, TF_BFLOAT16>);
    const char* const scores[] = {"scores: T", "mask: float", nullptr};
    const char* const exponentials[] = {"exponentials: T", "sums: float", nullptr};
    Register("GaloreSoftmax", scores, exponentials, &Softmax<float, TF_FLOAT>, &Softmax<Bf16, TF_BFLOAT16>);
    const char* const products[] = {"exponentials: T", "products: T", "delta: float", nullptr};
    const char* const d_scores[] = {"d_scores: T", nullptr};
    Register("GaloreSoftmaxGradient", products, d_scores, &SoftmaxGradient<float, TF_FLOAT>,
             &SoftmaxGradient<Bf16, TF_BFLOAT16>);
    const char* const gate_up[] = {"gate: T", "up: T", nullptr};
    const char* const activation[] = {"activation: T", nullptr};
    Register("GaloreSwiglu", gate_up, activation, &Swiglu<float, TF_FLOAT>, &Swiglu<Bf16, TF_BFLOAT16>);
    const char* const d_activation[] = {"d_activation: T", "gate: T", "up: T", nullptr};
    const char* const d_gate_up[] = {"d_gate: T", "d_up: T", nullptr};
    Register("GaloreSwigluGradient", d_activation, d_gate_up, &SwigluGradient<float, TF_FLOAT>,
             &SwigluGradient<Bf16, TF_BFLOAT16>);
    const char* const x[] = {"x: T", "weight: T", "epsilon: T", nullptr};
    const char* const y[] = {"y: T", "inverse: T", nullptr};
    Register("GaloreRmsNorm", x, y, &RmsNorm);
    const char* const dy[] = {"dy: T", "x: T", "weight: T", "inverse: T", nullptr};
    const char* const dx[] = {"dx: T", "d_weight: T", nullptr};
    Register("GaloreRmsNormGradient", dy, dx, &RmsNormGradient);
  }
} registration;

}  // namespace
