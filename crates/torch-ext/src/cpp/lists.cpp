// Multi-tensor operations: on a GPU, libtorch's kernels process many tensors per launch.

#include "shared.h"

#include <ATen/ATen.h>

#include <vector>

namespace {

std::vector<at::Tensor> list(const at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t index = 0; index < count; ++index) {
    result.push_back(*tensors[index]);
  }
  return result;
}

} // namespace

// Returns the L2 norm over all elements of the tensors. The list must not be empty.
extern "C" at::Tensor* torch_ext_norm(const at::Tensor* const* tensors, size_t count, char** error) {
  return guarded(error, [&] { return at::stack(at::_foreach_norm(list(tensors, count))).norm(); });
}

// Moves each target towards its source: target + weight * (source - target). Returns an undefined tensor.
extern "C" at::Tensor* torch_ext_lerp(
    const at::Tensor* const* targets,
    const at::Tensor* const* sources,
    size_t count,
    double weight,
    char** error) {
  return guarded(error, [&] {
    at::NoGradGuard guard;
    at::_foreach_lerp_(list(targets, count), list(sources, count), weight);
    return at::Tensor();
  });
}

// Updates parameters with AdamW. The gradients are multiplied by `clip` unless it is 1. Returns an undefined tensor.
extern "C" at::Tensor* torch_ext_adamw(
    const at::Tensor* const* parameters,
    const at::Tensor* const* gradients,
    const at::Tensor* const* exp_avgs,
    const at::Tensor* const* exp_avg_sqs,
    size_t count,
    double step,
    double lr,
    double beta1,
    double beta2,
    double weight_decay,
    double eps,
    double clip,
    char** error) {
  return guarded(error, [&] {
    at::NoGradGuard guard;
    const auto weights = list(parameters, count);
    auto slopes = list(gradients, count);
    for (size_t index = 0; index < count; ++index) {
      // The fused kernel ignores strides, so a gradient must have the layout of its parameter.
      if (slopes[index].strides() != weights[index].strides()) {
        slopes[index] = at::empty_like(weights[index]).copy_(slopes[index]);
      }
    }
    const auto options = weights[0].options();
    const std::vector<at::Tensor> steps(count, at::scalar_tensor(step, options));
    // The kernel divides gradients by `grad_scale`.
    const auto scale = clip == 1 ? std::nullopt : std::optional<at::Tensor>(at::scalar_tensor(1 / clip, options));
    at::_fused_adamw_(
        weights, slopes, list(exp_avgs, count), list(exp_avg_sqs, count), {}, steps, lr, beta1, beta2, weight_decay, eps,
        /*amsgrad=*/false, /*maximize=*/false, scale);
    return at::Tensor();
  });
}
