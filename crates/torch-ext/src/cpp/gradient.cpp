// Removal of gradients, as in PyTorch's `zero_grad(set_to_none=True)`.

#include <ATen/core/Tensor.h>

// Removes the gradient of a tensor, and frees its memory unless something else holds it.
extern "C" void torch_ext_clear_gradient(const at::Tensor* tensor) {
  tensor->mutable_grad().reset();
}
