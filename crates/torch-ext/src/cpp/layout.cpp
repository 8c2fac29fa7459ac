// The memory layout of image batches.

#include "shared.h"

#include <ATen/ATen.h>

// Returns `images` [batch, channels, height, width] in the memory format channels_last.
extern "C" at::Tensor* torch_ext_channels_last(const at::Tensor* images, char** error) {
  return guarded(error, [&] { return images->contiguous(at::MemoryFormat::ChannelsLast); });
}
