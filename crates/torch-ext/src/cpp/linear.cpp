// Linear layers fused with the preceding layer norm or activation.
//
// To save memory, the backward pass recomputes the output of the norm or activation from its input.
//
// libtorch multiplies float32 matrices with MKL, which is limited to AVX2 on non-Intel processors. libtorch also
// contains oneDNN, which uses AVX-512 there. `mkldnn_matmul` and `mkldnn_linear_pointwise` are libtorch's wrappers of
// oneDNN. It exports them, but its wheel lacks the headers that declare them.

#include "shared.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#ifdef TORCH_EXT_ONEDNN
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
#endif

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// The function before the matrix product; the values match `Front::code` in linear.rs.
enum Front : int64_t { NONE, NORM, GELU, GELU_TANH, QUICK_GELU, RELU, SILU };

constexpr double QUICK_GELU_FACTOR = 1.702;

bool runs_in_onednn(const at::Tensor& tensor, bool onednn) {
#ifdef TORCH_EXT_ONEDNN
  return onednn && tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.numel() > 0;
#else
  return false;
#endif
}

at::Tensor linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias,
    bool onednn) {
#ifdef TORCH_EXT_ONEDNN
  if (runs_in_onednn(input, onednn)) {
    c10::List<std::optional<c10::Scalar>> scalars;
    return at::native::mkldnn_linear_pointwise(input, weight, bias, "none", scalars, "");
  }
#endif
  return at::linear(input, weight, bias);
}

at::Tensor product(const at::Tensor& left, const at::Tensor& right, bool onednn) {
#ifdef TORCH_EXT_ONEDNN
  if (runs_in_onednn(left, onednn)) {
    auto result = at::empty({left.size(0), right.size(1)}, left.options());
    at::native::mkldnn_matmul(left, right, result, /*beta=*/0, /*alpha=*/1);
    return result;
  }
#endif
  return at::mm(left, right);
}

// Layer norm over the last axis: output, mean and reciprocal standard deviation.
std::tuple<at::Tensor, at::Tensor, at::Tensor> normed(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias,
    double eps) {
  return at::native_layer_norm(input, weight.sizes(), weight, bias, eps);
}

at::Tensor activated(const at::Tensor& input, int64_t front) {
  switch (front) {
    case GELU: return at::gelu(input);
    case GELU_TANH: return at::gelu(input, "tanh");
    case QUICK_GELU: return (input * QUICK_GELU_FACTOR).sigmoid_().mul_(input);
    case RELU: return at::relu(input);
    case SILU: return at::silu(input);
    default: return input;
  }
}

at::Tensor activation_gradient(const at::Tensor& gradient, const at::Tensor& input, int64_t front) {
  switch (front) {
    case GELU: return at::gelu_backward(gradient, input);
    case GELU_TANH: return at::gelu_backward(gradient, input, "tanh");
    case QUICK_GELU: {
      // d/dx x s(kx) = s + k x s (1 - s), with s the sigmoid of kx.
      const auto sigmoid = (input * QUICK_GELU_FACTOR).sigmoid_();
      const auto slope = (1 - sigmoid).mul_(input).mul_(QUICK_GELU_FACTOR).add_(1).mul_(sigmoid);
      return slope * gradient;
    }
    case RELU: return at::threshold_backward(gradient, input, 0);
    case SILU: return at::silu_backward(gradient, input);
    default: return gradient;
  }
}

struct Linear : torch::autograd::Function<Linear> {
  // Positions of the tensors among the arguments, which are also those of their gradients.
  enum Argument { INPUT, WEIGHT, NORM_WEIGHT, NORM_BIAS, BIAS, COUNT = 9 };

  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& input,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& norm_weight,
      const std::optional<at::Tensor>& norm_bias,
      const std::optional<at::Tensor>& bias,
      int64_t front,
      double eps,
      bool low_precision,
      bool onednn) {
    const auto kind = low_precision ? at::kBFloat16 : at::kFloat;
    const auto operand = weight.to(kind);
    const auto offset = bias ? std::optional<at::Tensor>(bias->to(kind)) : std::nullopt;
    at::Tensor x = input, mean, deviation;
    if (front == NORM) {
      std::tie(x, mean, deviation) = normed(input.to(at::kFloat), *norm_weight, *norm_bias, eps);
    } else {
      x = activated(input, front);
    }
    const auto none = at::Tensor();
    context->save_for_backward(
        {input, operand, norm_weight.value_or(none), norm_bias.value_or(none), mean, deviation});
    context->saved_data["front"] = front;
    context->saved_data["eps"] = eps;
    context->saved_data["has_bias"] = bias.has_value();
    context->saved_data["onednn"] = onednn;
    return linear(x.to(kind), operand, offset, onednn);
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1], &norm_weight = saved[2], &norm_bias = saved[3],
               &mean = saved[4], &deviation = saved[5];
    const auto front = context->saved_data["front"].toInt();
    const auto onednn = context->saved_data["onednn"].toBool();
    const auto kind = weight.scalar_type();
    const auto gradient = gradients[0].to(kind).reshape({-1, weight.size(0)}).contiguous();
    tensor_list results(COUNT);
    if (context->needs_input_grad(WEIGHT)) {
      auto x = input;
      if (front == NORM) {
        x = std::get<0>(normed(input.to(at::kFloat), norm_weight, norm_bias, context->saved_data["eps"].toDouble()));
      } else {
        x = activated(input, front);
      }
      x = x.to(kind).reshape({-1, weight.size(1)});
      results[WEIGHT] = product(gradient.t(), x, onednn).to(at::kFloat);
    }
    // `needs_input_grad` does not count absent optional tensors.
    const auto has_bias = context->saved_data["has_bias"].toBool();
    if (has_bias && context->needs_input_grad(front == NORM ? BIAS : NORM_WEIGHT)) {
      results[BIAS] = gradient.sum(0, /*keepdim=*/false, at::kFloat);
    }
    const std::array<bool, 3> mask = {
        context->needs_input_grad(INPUT),
        front == NORM && context->needs_input_grad(NORM_WEIGHT),
        front == NORM && context->needs_input_grad(NORM_BIAS)};
    if (mask[0] || mask[1] || mask[2]) {
      auto inner = product(gradient, weight, onednn).view(input.sizes());
      if (front == NORM) {
        std::tie(results[INPUT], results[NORM_WEIGHT], results[NORM_BIAS]) = at::native_layer_norm_backward(
            inner.to(at::kFloat), input.to(at::kFloat), norm_weight.sizes(), mean, deviation, norm_weight, norm_bias, mask);
        if (mask[0]) {
          results[INPUT] = results[INPUT].to(input.scalar_type());
        }
      } else {
        results[INPUT] = activation_gradient(inner.to(input.scalar_type()), input, front);
      }
    }
    return results;
  }
};

} // namespace

// Returns front(input) [.., in] times the transpose of weight [out, in], plus bias [out] unless it is null: [.., out].
// `norm_weight` and `norm_bias` [in] are null unless `front` is NORM.
extern "C" at::Tensor* torch_ext_linear(
    const at::Tensor* input,
    const at::Tensor* norm_weight,
    const at::Tensor* norm_bias,
    const at::Tensor* weight,
    const at::Tensor* bias,
    int64_t front,
    double eps,
    bool low_precision,
    bool onednn,
    char** error) {
  return guarded(error, [&] {
    return Linear::apply(
        *input, *weight, optional(norm_weight), optional(norm_bias), optional(bias), front, eps, low_precision, onednn);
  });
}
