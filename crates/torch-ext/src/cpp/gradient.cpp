// Clearing of gradients, like PyTorch's `zero_grad(set_to_none=True)`.

#include <ATen/core/Tensor.h>

// Removes the gradient of a tensor, and frees its memory unless other handles exist.
extern "C" void torch_ext_clear_gradient(const at::Tensor* tensor) {
  tensor->mutable_grad().reset();
}
