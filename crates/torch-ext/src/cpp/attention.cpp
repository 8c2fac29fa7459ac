// Softmax attention on a packed QKV tensor, with a packed gradient.
//
// libtorch's autograd would scatter the gradient of each part into a zero-filled tensor and add the three tensors.

#include "shared.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// Returns part 0 (queries), 1 (keys) or 2 (values) of [batch, seq, 3 * heads * width] as [batch, heads, seq, width].
at::Tensor part(const at::Tensor& qkv, int64_t heads, int64_t index) {
  const auto width = qkv.size(2) / (3 * heads);
  return qkv.view({qkv.size(0), qkv.size(1), 3, heads, width}).select(2, index).transpose(1, 2);
}

struct Attention : torch::autograd::Function<Attention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, int64_t heads, bool causal) {
    const auto qkv = input.contiguous();
    auto [output, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        part(qkv, heads, 0), part(qkv, heads, 1), part(qkv, heads, 2), /*dropout_p=*/0.0, causal);
    context->save_for_backward({qkv, output, logsumexp});
    context->saved_data["heads"] = heads;
    context->saved_data["causal"] = causal;
    return output.transpose(1, 2).reshape({qkv.size(0), qkv.size(1), qkv.size(2) / 3});
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto &qkv = saved[0], &output = saved[1], &logsumexp = saved[2];
    const auto heads = context->saved_data["heads"].toInt();
    const auto causal = context->saved_data["causal"].toBool();
    const auto width = qkv.size(2) / (3 * heads);
    const auto gradient = gradients[0].to(qkv.scalar_type()).reshape({qkv.size(0), qkv.size(1), heads, width}).transpose(1, 2);
    auto parts = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, part(qkv, heads, 0), part(qkv, heads, 1), part(qkv, heads, 2), output, logsumexp, /*dropout_p=*/0.0, causal);
    auto result = at::empty_like(qkv);
    part(result, heads, 0).copy_(std::get<0>(parts));
    part(result, heads, 1).copy_(std::get<1>(parts));
    part(result, heads, 2).copy_(std::get<2>(parts));
    return {result, {}, {}};
  }
};

} // namespace

// Returns the attention [batch, seq, heads * width] of `qkv` [batch, seq, 3 * heads * width] on the CPU.
extern "C" at::Tensor* torch_ext_attention(const at::Tensor* qkv, int64_t heads, bool causal, char** error) {
  return guarded(error, [&] { return Attention::apply(*qkv, heads, causal); });
}
