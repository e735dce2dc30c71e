// The types that MLX's own header gives to a kernel's parameters.
#pragma once
#include <array>
#include "cuda_fp16.h"
#include "cuda_bf16.h"
#include "cuda/std/cstdint"

namespace mlx { namespace core { namespace cu {
using Shape = std::array<int32_t, 10>;
using Strides = std::array<int64_t, 10>;
} } }
