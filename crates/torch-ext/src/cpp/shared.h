// What the functions for Rust share: optional tensors, and errors as messages.

#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <exception>

inline std::optional<at::Tensor> optional(const at::Tensor* tensor) {
  return tensor == nullptr ? std::nullopt : std::optional<at::Tensor>(*tensor);
}

// Returns a new tensor with the result of `compute`. On an error, returns null and writes a message for `free` to `error`.
template <typename Compute>
at::Tensor* guarded(char** error, Compute compute) {
  try {
    return new at::Tensor(compute());
  } catch (const std::exception& exception) {
    *error = strdup(exception.what());
    return nullptr;
  }
}
