// Linear layers whose products run in oneDNN, with their gradient.
//
// libtorch multiplies float32 matrices with MKL, which uses AVX2 at most on processors of other makers than Intel. oneDNN,
// in the same library, uses AVX-512 there. `mkldnn_matmul` and `mkldnn_linear_pointwise` are libtorch's own wrappers of
// oneDNN; libtorch exports them and declares them in headers that its wheel lacks.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>
#include <exception>

namespace at::native {
Tensor mkldnn_linear_pointwise(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    std::string_view activation,
    c10::List<std::optional<c10::Scalar>> scalars,
    std::optional<std::string_view> algorithm);
void mkldnn_matmul(const Tensor& left, const Tensor& right, const Tensor& result, float beta, float alpha);
} // namespace at::native

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

at::Tensor product(const at::Tensor& left, const at::Tensor& right) {
  auto result = at::empty({left.size(0), right.size(1)}, left.options());
  at::native::mkldnn_matmul(left, right, result, /*beta=*/0, /*alpha=*/1);
  return result;
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& input,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& bias) {
    context->save_for_backward({input, weight});
    context->saved_data["has_bias"] = bias.has_value();
    c10::List<std::optional<c10::Scalar>> scalars;
    return at::native::mkldnn_linear_pointwise(input, weight, bias, "none", scalars, "");
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1];
    const auto gradient = gradients[0].reshape({-1, weight.size(0)}).contiguous();
    tensor_list results(3);
    if (context->needs_input_grad(0)) {
      results[0] = product(gradient, weight).view(input.sizes());
    }
    if (context->needs_input_grad(1)) {
      results[1] = product(gradient.t(), input.reshape({-1, weight.size(1)}));
    }
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) {
      results[2] = gradient.sum(0);
    }
    return results;
  }
};

} // namespace

// Returns input [.., in] times weight [out, in] transposed, plus bias [out] unless it is null. On an error, returns null
// and writes a message for `free` to `error`.
extern "C" at::Tensor* torch_ext_linear(
    const at::Tensor* input,
    const at::Tensor* weight,
    const at::Tensor* bias,
    char** error) {
  try {
    const auto optional = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    return new at::Tensor(Linear::apply(*input, *weight, optional));
  } catch (const std::exception& exception) {
    *error = strdup(exception.what());
    return nullptr;
  }
}
