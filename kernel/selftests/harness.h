/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tests that run one after the other, each in a process of its own, and report as TAP 13: the form
 * of tools/testing/selftests/kselftest_harness.h, without its header.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEST_SECONDS	60
#define STATUS_FAILED	1
#define STATUS_SKIPPED	4	/* as KSFT_SKIP */

struct test {
	const char *name;
	void (*run)(void);
};

static int failures;

/* Compares and goes on. */
#define expect(found, wanted)	expect_at(__LINE__, #found, (long long)(found), (wanted))
/* Compares, and ends the test if the two differ. */
#define need(found, wanted)	need_at(__LINE__, #found, (long long)(found), (wanted))

static inline void expect_at(int line, const char *what, long long found, long long wanted)
{
	if (found == wanted)
		return;
	printf("# line %d: %s is %lld, expected %lld\n", line, what, found, wanted);
	failures++;
}

static inline void need_at(int line, const char *what, long long found, long long wanted)
{
	expect_at(line, what, found, wanted);
	if (found == wanted)
		return;
	fflush(stdout);
	_exit(STATUS_FAILED);
}

/* The test does not apply here. */
static inline void skip(const char *why)
{
	printf("# SKIP %s\n", why);
	fflush(stdout);
	_exit(STATUS_SKIPPED);
}

static inline int run_test(const struct test *test)
{
	pid_t child;
	int status;

	fflush(stdout);
	child = fork();
	if (child == 0) {
		alarm(TEST_SECONDS);
		test->run();
		fflush(stdout);
		_exit(failures ? STATUS_FAILED : 0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return STATUS_FAILED;
	if (WIFSIGNALED(status)) {
		printf("# ended by signal %d\n", WTERMSIG(status));
		return STATUS_FAILED;
	}
	return WEXITSTATUS(status);
}

/* Runs all tests, or those whose names are given; returns the status of the program. */
static inline int run_tests(const struct test *tests, int count, char **names)
{
	int passed = 0, failed = 0, skipped = 0, number = 0, i, status;
	char **name;

	printf("TAP version 13\n");
	for (i = 0; i < count; i++) {
		for (name = names; *name && strcmp(*name, tests[i].name); name++)
			;
		if (*names && !*name)
			continue;
		printf("# RUN %s\n", tests[i].name);
		status = run_test(&tests[i]);
		passed += status == 0;
		skipped += status == STATUS_SKIPPED;
		failed += status != 0 && status != STATUS_SKIPPED;
		printf("%sok %d %s%s\n", status && status != STATUS_SKIPPED ? "not " : "", ++number,
		       tests[i].name, status == STATUS_SKIPPED ? " # SKIP" : "");
	}
	printf("1..%d\n", number);
	printf("# Totals: pass:%d fail:%d skip:%d\n", passed, failed, skipped);
	return failed || !number;
}

#endif /* HARNESS_H */
