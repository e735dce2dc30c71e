// Metal's thread attributes, one function each: `msl_NAME()`. A threadgroup is a block, a simdgroup is a warp.
// Grids are whole multiples of the block (kernel.py sees to it), so every block has blockDim threads.
// Positions are plain structs: most kernels read single components and can do without Metal's vectors.

namespace metal {

// for: msl_position
struct msl_position { uint x, y, z; };

// for: msl_vector
MSL_FN uint3 msl_vector(msl_position p) { return uint3(p.x, p.y, p.z); }

// for: msl_tid msl_simdgroups
MSL_FN uint msl_tid() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
MSL_FN uint msl_simdgroups() { return (blockDim.x * blockDim.y * blockDim.z + 31) / 32; }

// for: msl_lane
MSL_FN uint msl_lane() {
  uint lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// for: msl_thread_position_in_grid
MSL_FN msl_position msl_thread_position_in_grid() {
  return {blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
               blockIdx.z * blockDim.z + threadIdx.z};
}

// for: msl_thread_position_in_threadgroup
MSL_FN msl_position msl_thread_position_in_threadgroup() { return {threadIdx.x, threadIdx.y, threadIdx.z}; }

// for: msl_threadgroup_position_in_grid
MSL_FN msl_position msl_threadgroup_position_in_grid() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }

// for: msl_threads_per_threadgroup msl_dispatch_threads_per_threadgroup
MSL_FN msl_position msl_threads_per_threadgroup() { return {blockDim.x, blockDim.y, blockDim.z}; }
MSL_FN msl_position msl_dispatch_threads_per_threadgroup() { return msl_threads_per_threadgroup(); }

// for: msl_threadgroups_per_grid
MSL_FN msl_position msl_threadgroups_per_grid() { return {gridDim.x, gridDim.y, gridDim.z}; }

// for: msl_threads_per_grid msl_grid_size
MSL_FN msl_position msl_threads_per_grid() {
  return {gridDim.x * blockDim.x, gridDim.y * blockDim.y, gridDim.z * blockDim.z};
}
MSL_FN msl_position msl_grid_size() { return msl_threads_per_grid(); }

// for: msl_grid_origin
MSL_FN msl_position msl_grid_origin() { return {0, 0, 0}; }

// for: msl_thread_index_in_threadgroup
MSL_FN uint msl_thread_index_in_threadgroup() { return msl_tid(); }

// for: msl_thread_index_in_simdgroup
MSL_FN uint msl_thread_index_in_simdgroup() { return msl_tid() & 31; }

// for: msl_thread_index_in_quadgroup
MSL_FN uint msl_thread_index_in_quadgroup() { return msl_tid() & 3; }

// for: msl_simdgroup_index_in_threadgroup
MSL_FN uint msl_simdgroup_index_in_threadgroup() { return msl_tid() >> 5; }

// for: msl_quadgroup_index_in_threadgroup
MSL_FN uint msl_quadgroup_index_in_threadgroup() { return msl_tid() >> 2; }

// for: msl_simdgroups_per_threadgroup msl_dispatch_simdgroups_per_threadgroup
MSL_FN uint msl_simdgroups_per_threadgroup() { return msl_simdgroups(); }
MSL_FN uint msl_dispatch_simdgroups_per_threadgroup() { return msl_simdgroups(); }

// for: msl_quadgroups_per_threadgroup msl_dispatch_quadgroups_per_threadgroup
MSL_FN uint msl_quadgroups_per_threadgroup() { return msl_simdgroups() * 8; }
MSL_FN uint msl_dispatch_quadgroups_per_threadgroup() { return msl_simdgroups() * 8; }

// for: msl_threads_per_simdgroup msl_thread_execution_width
MSL_FN uint msl_threads_per_simdgroup() { return 32; }
MSL_FN uint msl_thread_execution_width() { return 32; }

} // namespace metal
