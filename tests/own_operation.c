// An operation that TensorFlow does not have, as a package of operations brings it: "OurTripled" gives each number times 3.
#include "tensorflow/c/kernels.h"
// What the next header takes for known, as it is in C++.
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_DimensionHandle TF_DimensionHandle;
#include "tensorflow/c/ops.h"

static void compute(void* kernel, TF_OpKernelContext* context) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* rows = 0;
  TF_GetInput(context, 0, &rows, status);
  int64_t shape[2] = {TF_Dim(rows, 0), TF_Dim(rows, 1)};
  TF_Tensor* tripled = TF_AllocateOutput(context, 0, TF_FLOAT, shape, 2, TF_TensorByteSize(rows), status);
  for (int64_t i = 0; i < TF_TensorElementCount(rows); ++i)
    ((float*)TF_TensorData(tripled))[i] = 3 * ((float*)TF_TensorData(rows))[i];
  TF_DeleteTensor(rows);
  TF_DeleteTensor(tripled);
  TF_DeleteStatus(status);
}

static void infer_shape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  TF_ShapeInferenceContextGetInput(context, 0, shape, status);
  TF_ShapeInferenceContextSetOutput(context, 0, shape, status);
  TF_DeleteShapeHandle(shape);
}

__attribute__((constructor)) static void register_operation(void) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* operation = TF_NewOpDefinitionBuilder("OurTripled");
  TF_OpDefinitionBuilderAddInput(operation, "rows: float");
  TF_OpDefinitionBuilderAddOutput(operation, "tripled: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(operation, infer_shape);
  TF_RegisterOpDefinition(operation, status);
  TF_RegisterKernelBuilder("OurTripled", TF_NewKernelBuilder("OurTripled", "CPU", 0, compute, 0), status);
  TF_DeleteStatus(status);
}
