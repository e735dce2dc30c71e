"""Metal kernel texts on NVIDIA GPUs: one body for `mx.fast.metal_kernel` and `mx.fast.cuda_kernel`.

`cuda_kernel(...)` takes what `mx.fast.metal_kernel` takes and returns something to be called in the same way. The
body and its helpers are carried over to CUDA (`rewrite`), the parameters are derived as MLX derives them for Metal
(`signature`), and the parts of Metal's library that are used are put before it (`shim`, from `headers/`).

Knows nothing of the model and of any particular kernel. The CPU emulator that the tests run kernels on
(`tests/mslemu`) builds on the same files.
"""

from ds4_mlx.kernels.metal_on_cuda.kernel import CudaKernel, cuda_kernel
from ds4_mlx.kernels.metal_on_cuda.signature import KernelText
from ds4_mlx.kernels.metal_on_cuda.tokens import KernelTextError

__all__ = ["CudaKernel", "KernelText", "KernelTextError", "cuda_kernel"]
