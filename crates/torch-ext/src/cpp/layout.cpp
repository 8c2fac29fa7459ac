// The memory layout of image batches.

#include "shared.h"

#include <ATen/ATen.h>

// Returns `images` [batch, channels, height, width] with the channels of a pixel side by side in memory.
extern "C" at::Tensor* torch_ext_channels_last(const at::Tensor* images, char** error) {
  return guarded(error, [&] { return images->contiguous(at::MemoryFormat::ChannelsLast); });
}
