// SPDX-License-Identifier: Apache-2.0
/*
 * A plugin for QEMU that counts which instructions a guest executes: by the address of the
 * translated block that they are in, and by the task that executes them. The lab's job
 * `instructions --profile` says when to count, through a page that it shares with this plugin;
 * lab/host/profile.mjs makes tables of the counts. To count does not change what the guest does:
 * its clock counts instructions as well (-icount), and not time.
 *
 *   -plugin instruction-profile.so,folder=FOLDER,next=REGISTER
 *
 * FOLDER holds the page `control`, which the guest sees as a file, and gets the counts as
 * `counts-NUMBER`. REGISTER has the second argument of a function of the guest's kernel.
 *
 * The virtual processors have to share one thread (-accel tcg,thread=single): nothing is locked.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "qemu-plugin.h"

#define PAGE 4096
#define PROCESSORS 64
#define TASKS 4096
#define COMM 16
/* More than the kernel's struct task_struct has. */
#define TASK_BYTES 16384
#define SLOTS 3
#define BUCKETS (1 << 18)

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

/* What the guest asks for. */
enum command {
	/* Do not touch translated code: the guest runs at full speed. */
	COMMAND_REST,
	/* Follow which task runs, and count nothing yet. */
	COMMAND_FOLLOW,
	COMMAND_COUNT,
	/* Write the counts, forget them, and then go on as COMMAND_FOLLOW. */
	COMMAND_WRITE,
};

/* The page, in the byte order of both sides: the guest's job writes it, this plugin only reads. */
struct control {
	uint32_t command;
	/* Number of the file that COMMAND_WRITE writes. */
	uint32_t number;
	/* Addresses of the kernel's __switch_to() and init_task. */
	uint64_t switch_to;
	uint64_t init_task;
	/* The id of the process that writes this page, with which the place of ids is found. */
	uint32_t pid;
};

/* A task that has run. */
struct task {
	uint32_t tgid;
	char comm[COMM];
};

/* How many instructions of a block a task has executed. */
struct slot {
	uint32_t task;
	uint64_t count;
};

/* Code that begins at an address and has a number of instructions. */
struct block {
	uint64_t address;
	uint32_t instructions;
	uint32_t used;
	struct slot slots[SLOTS];
	/* More slots, for code that many tasks execute. */
	struct block *more;
	struct block *next;
};

static volatile const struct control *control;
static const char *folder;
static const char *next_register;
static void *next_handle;
static struct byte_array *bytes;
static struct block *buckets[BUCKETS];
static struct task tasks[TASKS];
/* Task 0 stands for all that ran before the first switch, or for which there is no place. */
static uint32_t task_count = 1;

/* A processor that has run, and the task that runs on it. */
struct processor {
	const void *cpu;
	uint64_t address;
	uint32_t task;
};

static struct processor processors[PROCESSORS];
static size_t comm_offset;
static size_t pid_offset;
static bool is_following;
static bool is_resetting;
static bool is_counting;

static void on_translate(plugin_id id, void *block);

static void complain(const char *what)
{
	char line[256];

	snprintf(line, sizeof(line), "instruction-profile: %s\n", what);
	qemu_plugin_outs(line);
	fputs(line, stderr);
}

static struct block *new_block(uint64_t address, uint32_t instructions)
{
	struct block *block = calloc(1, sizeof(*block));

	if (!block)
		abort();
	block->address = address;
	block->instructions = instructions;
	return block;
}

/* Code is translated more than once: its counts stay together. */
static struct block *find_block(uint64_t address, uint32_t instructions)
{
	uint64_t hash = (address ^ instructions) * 0x9e3779b97f4a7c15;
	struct block **bucket = &buckets[hash >> 46];
	struct block *block;

	for (block = *bucket; block; block = block->next)
		if (block->address == address && block->instructions == instructions)
			return block;
	block = new_block(address, instructions);
	block->next = *bucket;
	*bucket = block;
	return block;
}

static void add(struct block *block, uint32_t task)
{
	for (;; block = block->more) {
		for (uint32_t i = 0; i < block->used; i++) {
			if (block->slots[i].task == task) {
				block->slots[i].count += block->instructions;
				return;
			}
		}
		if (block->used < SLOTS)
			break;
		if (!block->more)
			block->more = new_block(block->address, block->instructions);
	}
	block->slots[block->used++] = (struct slot){ task, block->instructions };
}

static void write_slots(FILE *file, struct block *block)
{
	for (; block; block = block->more) {
		for (uint32_t i = 0; i < block->used; i++)
			fprintf(file, "block %" PRIx64 " %u %" PRIu64 "\n", block->address,
				block->slots[i].task, block->slots[i].count);
		/* The blocks of slots stay where they are: translated code refers to them. */
		block->used = 0;
	}
}

static void write_counts(void)
{
	char path[1024];
	FILE *file;

	snprintf(path, sizeof(path), "%s/counts-%u", folder, control->number);
	file = fopen(path, "w");
	if (!file) {
		complain("cannot write the counts");
		return;
	}
	for (uint32_t i = 0; i < task_count; i++)
		fprintf(file, "task %u %u %s\n", i, tasks[i].tgid, tasks[i].comm);
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct block *block = buckets[i]; block; block = block->next)
			write_slots(file, block);
	fputs("end\n", file);
	fclose(file);
}

static bool read_memory(uint64_t address, size_t length)
{
	return qemu_plugin_read_memory_vaddr(address, bytes, length);
}

/* The first processor's idle task has a name that is known, and says where names are. */
static void find_comm(void)
{
	static const char name[] = "swapper/0";

	if (!read_memory(control->init_task, TASK_BYTES))
		return;
	for (size_t i = 0; i + COMM <= TASK_BYTES; i++) {
		if (memcmp(bytes->data + i, name, sizeof(name)) == 0) {
			comm_offset = i;
			return;
		}
	}
	complain("init_task has no name");
}

/* The main thread of the process that asks has its id twice, as a thread's and as a process's. */
static void find_pid(uint64_t task)
{
	const uint32_t wanted[] = { control->pid, control->pid };

	/* It may lie close to the end of memory that is there. */
	if (!read_memory(task, comm_offset))
		return;
	for (size_t i = 0; i + sizeof(wanted) <= comm_offset; i += 4) {
		if (memcmp(bytes->data + i, wanted, sizeof(wanted)) == 0) {
			pid_offset = i;
			return;
		}
	}
}

static uint32_t find_task(uint64_t address)
{
	struct task task = { 0 };

	if (!pid_offset)
		find_pid(address);
	if (pid_offset && read_memory(address + pid_offset, 8))
		memcpy(&task.tgid, bytes->data + 4, sizeof(task.tgid));
	if (!read_memory(address + comm_offset, COMM))
		return 0;
	memcpy(task.comm, bytes->data, COMM - 1);
	for (uint32_t i = 1; i < task_count; i++)
		if (memcmp(&tasks[i], &task, sizeof(task)) == 0)
			return i;
	if (task_count == TASKS)
		return 0;
	tasks[task_count] = task;
	return task_count++;
}

/*
 * The processor whose turn it is. The number that callbacks are told is of no use: with
 * thread=single it is that of the processor for which the code was translated (QEMU 10.0).
 */
static struct processor *this_processor(void)
{
	struct processor *processor = processors;

	while (processor->cpu != current_cpu && processor->cpu &&
	       processor < &processors[PROCESSORS - 1])
		processor++;
	processor->cpu = current_cpu;
	return processor;
}

/* __switch_to(previous, next) */
static void on_switch(unsigned int number, void *data)
{
	struct processor *processor = this_processor();

	(void)number;
	(void)data;
	bytes->len = 0;
	if (!comm_offset ||
	    qemu_plugin_read_register(next_handle, bytes) != sizeof(processor->address))
		return;
	memcpy(&processor->address, bytes->data, sizeof(processor->address));
	processor->task = find_task(processor->address);
}

/* The place of process ids may have been found after the last switch of a processor. */
static void begin_count(void)
{
	is_counting = true;
	for (size_t i = 0; i < PROCESSORS; i++)
		if (processors[i].address)
			processors[i].task = find_task(processors[i].address);
}

static void after_reset(plugin_id id)
{
	is_resetting = false;
	is_following = control->command != COMMAND_REST;
	memset(processors, 0, sizeof(processors));
	if (is_following && !comm_offset)
		find_comm();
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
}

/* All code is translated anew, with or without callbacks in it. */
static void reset(plugin_id id)
{
	if (is_resetting)
		return;
	is_resetting = true;
	qemu_plugin_reset(id, after_reset);
}

static plugin_id own_id;

static void on_block(unsigned int number, void *data)
{
	(void)number;
	switch (control->command) {
	case COMMAND_COUNT:
		if (!is_counting)
			begin_count();
		add(data, this_processor()->task);
		break;
	case COMMAND_WRITE:
		if (is_counting)
			write_counts();
		is_counting = false;
		break;
	case COMMAND_REST:
		reset(own_id);
		break;
	default:
		break;
	}
}

static void on_translate(plugin_id id, void *block)
{
	size_t instructions = qemu_plugin_tb_n_insns(block);

	if (!is_following) {
		if (control->command != COMMAND_REST)
			reset(id);
		return;
	}
	for (size_t i = 0; i < instructions; i++) {
		void *instruction = qemu_plugin_tb_get_insn(block, i);

		if (qemu_plugin_insn_vaddr(instruction) == control->switch_to)
			qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_switch,
							       READ_REGISTERS, NULL);
	}
	qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, NO_REGISTERS,
					     find_block(qemu_plugin_tb_vaddr(block), instructions));
}

static void on_processor(plugin_id id, unsigned int processor)
{
	struct descriptor_array *registers;

	(void)id;
	if (processor != 0)
		return;
	registers = qemu_plugin_get_registers();
	for (unsigned int i = 0; i < registers->len; i++)
		if (strcmp(registers->data[i].name, next_register) == 0)
			next_handle = registers->data[i].handle;
	if (!next_handle)
		complain("this processor has no such register");
}

static int map_control(void)
{
	char path[1024];
	int fd;

	snprintf(path, sizeof(path), "%s/control", folder);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	control = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return control == MAP_FAILED ? -1 : 0;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
	(void)info;
	for (int i = 0; i < count; i++) {
		if (strncmp(arguments[i], "folder=", 7) == 0)
			folder = arguments[i] + 7;
		else if (strncmp(arguments[i], "next=", 5) == 0)
			next_register = arguments[i] + 5;
	}
	if (!folder || !next_register || map_control() != 0) {
		complain("folder= with a page `control` in it, and next= are needed");
		return -1;
	}
	own_id = id;
	bytes = g_byte_array_new();
	strcpy(tasks[0].comm, "unknown");
	qemu_plugin_register_vcpu_init_cb(id, on_processor);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}
