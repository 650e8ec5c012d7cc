/* Compiled by the guest's gcc at several levels and run; see userland-suite. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 88172645463325252ull;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

int main(void)
{
	enum { N = 50000 };
	static uint64_t numbers[N];
	static float grid[64][64];
	for (int i = 0; i < N; i++)
		numbers[i] = next();
	qsort(numbers, N, sizeof(numbers[0]), compare);
	uint64_t hash = 14695981039346656037ull;
	for (int i = 0; i < N; i++)
		hash = (hash ^ numbers[i]) * 1099511628211ull;
	printf("%016llx\n", (unsigned long long)hash);

	for (int i = 0; i < 64; i++)
		for (int j = 0; j < 64; j++)
			grid[i][j] = (float)(next() % 1000) / 10;
	for (int pass = 0; pass < 20; pass++)
		for (int i = 1; i < 63; i++)
			for (int j = 1; j < 63; j++)
				grid[i][j] = (grid[i - 1][j] + grid[i + 1][j] + grid[i][j - 1] + grid[i][j + 1]) * 0.25f;
	printf("%a %.17g %.17g\n", (double)grid[31][31], sqrt(2) * cbrt(3), pow(1.0001, 12345));

	int8_t bytes[64];
	int32_t sum = 0;
	for (int i = 0; i < 64; i++)
		bytes[i] = (int8_t)(next() & 0xff);
	for (int i = 0; i < 64; i++)
		sum += bytes[i] * (i ^ 21) / (1 + (i & 3));
	printf("%d %lld %llu\n", sum, (long long)((__int128)numbers[1] * 3 >> 64), (unsigned long long)(numbers[2] % 1000003));
	printf("%.15Lg %Lg\n", sqrtl(2.0L), 1.0L / 3);
	return 0;
}
