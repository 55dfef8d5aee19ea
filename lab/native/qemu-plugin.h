/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of QEMU's plugin interface, version 4, that instruction-profile.c uses. Debian does not
 * package QEMU's own header. QEMU refuses a plugin whose version it does not support, so that a
 * change of the interface shows up as an error and not as a crash.
 */
#ifndef LAB_QEMU_PLUGIN_H
#define LAB_QEMU_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLUGIN_VERSION 4
#define EXPORT __attribute__((visibility("default")))

/* GLib's arrays, of which QEMU's plugin interface shows these members. */
struct byte_array {
	uint8_t *data;
	unsigned int len;
};

struct descriptor_array {
	struct register_descriptor *data;
	unsigned int len;
};

struct register_descriptor {
	void *handle;
	const char *name;
	const char *feature;
};

/* QEMU has GLib loaded. */
struct byte_array *g_byte_array_new(void);

enum register_access { NO_REGISTERS, READ_REGISTERS };

typedef uint64_t plugin_id;
typedef void (*plugin_callback)(plugin_id id);
typedef void (*processor_callback)(plugin_id id, unsigned int processor);
typedef void (*translate_callback)(plugin_id id, void *block);
typedef void (*execute_callback)(unsigned int processor, void *data);

/* Not part of the interface, but there: which of the processors runs in this thread. */
extern __thread void *current_cpu;

void qemu_plugin_outs(const char *text);
void qemu_plugin_reset(plugin_id id, plugin_callback done);
void qemu_plugin_register_vcpu_init_cb(plugin_id id, processor_callback call);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, translate_callback call);
void qemu_plugin_register_vcpu_tb_exec_cb(void *block, execute_callback call,
					  enum register_access access, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(void *instruction, execute_callback call,
					    enum register_access access, void *data);
size_t qemu_plugin_tb_n_insns(const void *block);
uint64_t qemu_plugin_tb_vaddr(const void *block);
void *qemu_plugin_tb_get_insn(const void *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const void *instruction);
struct descriptor_array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(void *handle, struct byte_array *into);
bool qemu_plugin_read_memory_vaddr(uint64_t address, struct byte_array *into, size_t length);

#endif
