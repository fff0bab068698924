// What operations of our own for TensorFlow are made of: numbers in float and bfloat16, the tensors of a call, and
// how an operation is made known.
#pragma once

#include <cstdint>
#include <cstring>

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

  TF_Tensor* Matrix(int index, TF_DataType type, int64_t rows, int64_t columns) {
    if (!IsOk()) return nullptr;
    const int64_t dims[] = {rows, columns};
    const size_t bytes = rows * columns * TF_DataTypeSize(type);
    return Own(TF_AllocateOutput(context_, index, type, dims, 2, bytes, status_));
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

inline int64_t Columns(const TF_Tensor* tensor) { return TF_Dim(tensor, TF_NumDims(tensor) - 1); }

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

}  // namespace
