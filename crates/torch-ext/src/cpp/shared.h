// Helpers of the functions that Rust calls: optional tensors, and exceptions as error messages.

#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <exception>

inline std::optional<at::Tensor> optional(const at::Tensor* tensor) {
  return tensor == nullptr ? std::nullopt : std::optional<at::Tensor>(*tensor);
}

// Returns a new tensor with the result of `compute`. On an exception, returns null and stores a message in `error`,
// which the caller frees with `free`.
template <typename Compute>
at::Tensor* guarded(char** error, Compute compute) {
  try {
    return new at::Tensor(compute());
  } catch (const std::exception& exception) {
    *error = strdup(exception.what());
    return nullptr;
  }
}
