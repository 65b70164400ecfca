// launches.hpp -- how many blocks of threads a kernel of the GPU gets, in one place, so that the compiler can
// check every size there may be (rows_fibres.cpp).
#pragma once
#include <cstdint>

namespace rows
{
constexpr int THREADS = 256;                           // of a block, but for a few
constexpr int64_t MOST_X = 2147483647, MOST_Y = 65535; // blocks of a grid

struct grid_size {
	int64_t x, y;
};

// A thread each; `lanes` threads a row.
constexpr grid_size per_thread(int64_t threads)
{
	return { (threads + THREADS - 1) / THREADS, 1 };
}
constexpr grid_size per_row(int64_t rows, int lanes)
{
	return per_thread(rows * lanes);
}
// A warp for each of the S tokens of a sample; samples are the grid's second dimension, so that no lane
// divides.
constexpr grid_size per_token(int64_t S, int64_t B)
{
	return { per_row(S, 32).x, B };
}
constexpr bool may_launch(grid_size g)
{
	return g.x >= 1 && g.x <= MOST_X && g.y >= 1 && g.y <= MOST_Y;
}
} // namespace rows
