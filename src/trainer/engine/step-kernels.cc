// Operations of TensorFlow that a training step needs and TensorFlow has not: what lies between two matrix
// products in one pass over memory, from the products' own numbers (T: float or bfloat16) to the next
// product's. Sums and everything else within an operation are in float. src/trainer/model/passes.ts has
// the same in tensor operations and says what each computes.
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace {

using Bf16 = uint16_t;

constexpr int64_t kMinParallel = 1 << 15;  // numbers, below which one thread is faster

inline float Load(float x) { return x; }
inline float Load(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void Store(float* to, float x) { *to = x; }
inline void Store(Bf16* to, float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  *to = static_cast<Bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

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

// The tensors of one call. Deletes what it got; a failure is reported once, and the call then does nothing.
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context), status_(TF_NewStatus()) {}
  ~Call() {
    if (TF_GetCode(status_) != TF_OK) TF_OpKernelContext_Failure(context_, status_);
    for (int i = 0; i < count_; i++) TF_DeleteTensor(tensors_[i]);
    TF_DeleteStatus(status_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  TF_Tensor* Input(int index) {
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context_, index, &tensor, status_);
    return Own(tensor);
  }

  // An output shaped as `like`; with `columns`, if that is not -1, in place of its last dimension.
  TF_Tensor* Output(int index, TF_DataType type, const TF_Tensor* like, int64_t columns = -1) {
    if (!IsOk()) return nullptr;
    int64_t dims[8];
    const int rank = TF_NumDims(like);
    int64_t size = 1;
    for (int i = 0; i < rank && i < 8; i++) {
      dims[i] = i == rank - 1 && columns != -1 ? columns : TF_Dim(like, i);
      size *= dims[i];
    }
    return Own(TF_AllocateOutput(context_, index, type, dims, rank, size * TF_DataTypeSize(type), status_));
  }

  bool Require(bool is_met, const char* message) {
    if (!is_met && IsOk()) TF_SetStatus(status_, TF_INVALID_ARGUMENT, message);
    return IsOk();
  }

  bool IsOk() const { return TF_GetCode(status_) == TF_OK; }

 private:
  TF_Tensor* Own(TF_Tensor* tensor) {
    if (tensor != nullptr) tensors_[count_++] = tensor;
    return tensor;
  }

  TF_OpKernelContext* context_;
  TF_Status* status_;
  TF_Tensor* tensors_[10];
  int count_ = 0;
};

template <typename T>
T* Data(const TF_Tensor* tensor) {
  return static_cast<T*>(TF_TensorData(tensor));
}

int64_t Columns(const TF_Tensor* tensor) { return TF_Dim(tensor, TF_NumDims(tensor) - 1); }

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

using Compute = void (*)(void*, TF_OpKernelContext*);

void* NoState(TF_OpKernelConstruction*) { return nullptr; }
void NoDelete(void*) {}

void RegisterKernel(const char* name, TF_DataType type, Compute compute, TF_Status* status) {
  TF_KernelBuilder* builder = TF_NewKernelBuilder(name, "CPU", &NoState, compute, &NoDelete);
  TF_KernelBuilder_TypeConstraint(builder, "T", type, status);
  if (TF_GetCode(status) == TF_OK) TF_RegisterKernelBuilder(name, builder, status);
}

// Inputs and outputs are "name: type", with a nullptr at the end. Without `in_bf16` T is always float.
void Register(const char* name, const char* const* inputs, const char* const* outputs, Compute in_float,
              Compute in_bf16 = nullptr) {
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  TF_OpDefinitionBuilderAddAttr(op, in_bf16 == nullptr ? "T: {float}" : "T: {float, bfloat16}");
  for (; *inputs != nullptr; inputs++) TF_OpDefinitionBuilderAddInput(op, *inputs);
  for (; *outputs != nullptr; outputs++) TF_OpDefinitionBuilderAddOutput(op, *outputs);
  TF_Status* status = TF_NewStatus();
  TF_RegisterOpDefinition(op, status);
  if (TF_GetCode(status) == TF_OK) RegisterKernel(name, TF_FLOAT, in_float, status);
  if (TF_GetCode(status) == TF_OK && in_bf16 != nullptr) RegisterKernel(name, TF_BFLOAT16, in_bf16, status);
  TF_DeleteStatus(status);  // what is not registered is not found when it is called, which says so
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
