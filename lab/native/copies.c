// SPDX-License-Identifier: Apache-2.0
/*
 * Says how many instructions it takes to copy memory, as the clock of a guest counts them that was
 * started with -icount: whether an instruction that copies much counts as one. And how many the
 * kernel takes, where pread() copies from a file in memory.
 *
 *   copies FILE     prints lines "WAY BYTES INSTRUCTIONS"; FILE has 128 KiB or more, in memory
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST (128 << 10)
#define ROUNDS 5

static char from[MOST], to[MOST];
static int file;

static void by_library(size_t length)
{
	memcpy(to, from, length);
	__asm__ volatile("" ::: "memory");
}

static void by_kernel(size_t length)
{
	if (pread(file, to, length, 0) != (ssize_t)length)
		perror("pread");
}

static void by_nothing(size_t length)
{
	(void)length;
}

#ifdef __x86_64__
static void by_bytes(size_t length)
{
	void *target = to, *source = from;

	__asm__ volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(length) :: "memory");
}

static void by_words(size_t length)
{
	void *target = to, *source = from;

	length /= 8;
	__asm__ volatile("rep movsq" : "+D"(target), "+S"(source), "+c"(length) :: "memory");
}
#endif

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* The least of some rounds: no interrupt was in that one. */
static uint64_t measure(void (*copy)(size_t length), size_t length)
{
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t started = now();

		copy(length);
		if (now() - started < least)
			least = now() - started;
	}
	return least;
}

static void print(const char *way, void (*copy)(size_t length))
{
	static const size_t lengths[] = { 4 << 10, MOST };
	uint64_t nothing = measure(by_nothing, 0);

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
		printf("%s %zu %llu\n", way, lengths[i],
		       (unsigned long long)(measure(copy, lengths[i]) - nothing));
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	file = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		perror(argv[1]);
		return 1;
	}
	memset(from, 1, sizeof(from));
	memset(to, 2, sizeof(to));
#ifdef __x86_64__
	print("rep-movsb", by_bytes);
	print("rep-movsq", by_words);
#endif
	print("memcpy", by_library);
	print("pread", by_kernel);
	return 0;
}
