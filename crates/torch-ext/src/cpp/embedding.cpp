// Rows of an embedding table, with a gradient that is added row by row.
//
// libtorch's backward pass fills a tensor of the table's size for each call and adds it to the gradient. A vocabulary has
// 49,408 rows, and a batch uses some hundreds of them.

#include "shared.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct Embedding : torch::autograd::Function<Embedding> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& table, const at::Tensor& indices) {
    context->save_for_backward({table, indices});
    return at::embedding(table, indices);
  }

  static tensor_list backward(AutogradContext* context, const tensor_list& gradients) {
    const auto saved = context->get_saved_variables();
    auto &total = saved[0].mutable_grad();
    const auto indices = saved[1].contiguous();
    const auto gradient = gradients[0].contiguous();
    if (!total.defined()) {
      total = at::zeros(saved[0].sizes(), saved[0].options().requires_grad(false));
    }
    const auto width = total.size(1);
    const auto *rows = indices.const_data_ptr<int64_t>();
    const auto *source = gradient.const_data_ptr<float>();
    auto *target = total.mutable_data_ptr<float>();
    for (int64_t token = 0; token < indices.numel(); ++token) {
      auto *row = target + rows[token] * width;
      for (int64_t column = 0; column < width; ++column) {
        row[column] += source[token * width + column];
      }
    }
    return {{}, {}};
  }
};

// Whether the gradient can be added to the one that the table stores.
bool adds_rows(const at::Tensor& table, const at::Tensor& indices) {
  return table.is_cpu() && table.scalar_type() == at::kFloat && table.dim() == 2 && table.requires_grad() &&
      table.is_leaf() && indices.scalar_type() == at::kLong &&
      (!table.grad().defined() || table.grad().is_contiguous());
}

} // namespace

// Returns the rows of `table` [rows, width] at `indices` (i64) [..]: [.., width].
extern "C" at::Tensor* torch_ext_embedding(const at::Tensor* table, const at::Tensor* indices, char** error) {
  return guarded(error, [&] {
    return adds_rows(*table, *indices) ? Embedding::apply(*table, *indices) : at::embedding(*table, *indices);
  });
}
