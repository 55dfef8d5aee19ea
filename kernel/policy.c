// SPDX-License-Identifier: GPL-2.0
/*
 * Who may do what. The device node says who may talk to the module; this says what for.
 *
 *   types       a list, with the capability that each needs. Not in it: devices that act on the
 *               machine's memory (balloon, mem, pmem, iommu), those whose drivers crash without a
 *               real bus (gpu), and all that are unknown.
 *   direct      CAP_SYS_RAWIO, at creation, at takeover, and whenever the memory is handed out; not
 *               in a locked-down kernel. A kernel that cannot be locked down wants direct=1.
 *   takeover    by the user who made the device, in the same user namespace, or CAP_SYS_ADMIN.
 *   memory      counts as locked memory of the adapter (RLIMIT_MEMLOCK) and in its memory cgroup.
 *   number      devices_per_user, without CAP_SYS_RESOURCE.
 */
#include <linux/capability.h>
#include <linux/ctype.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/mm.h>
#include <linux/security.h>
#include "vlo.h"

static bool vlo_direct = IS_ENABLED(CONFIG_SECURITY_LOCKDOWN_LSM);
module_param_named(direct, vlo_direct, bool, 0644);
MODULE_PARM_DESC(direct, "let CAP_SYS_RAWIO share all RAM with a device (default: where the kernel can be locked down)");

static unsigned int vlo_devices_per_user = 64;
module_param_named(devices_per_user, vlo_devices_per_user, uint, 0644);
MODULE_PARM_DESC(devices_per_user, "devices of a user without CAP_SYS_RESOURCE (default: 64)");

static unsigned short vlo_types_chosen[32];
static unsigned int vlo_types_chosen_count;
module_param_array_named(types, vlo_types_chosen, ushort, &vlo_types_chosen_count, 0444);
MODULE_PARM_DESC(types, "virtio ids of the devices that may be made (default: all that the module knows)");

/* By number: headers of older kernels lack some names. */
static const struct vlo_type {
	u16 id;
	u16 capability;
} vlo_types[] = {
	{ 1, CAP_NET_ADMIN },	/* net */
	{ 2, CAP_SYS_ADMIN },	/* blk */
	{ 3, CAP_SYS_ADMIN },	/* console */
	{ 4, CAP_SYS_ADMIN },	/* rng */
	{ 8, CAP_SYS_ADMIN },	/* scsi */
	{ 17, CAP_SYS_ADMIN },	/* rtc */
	{ 18, CAP_SYS_ADMIN },	/* input */
	{ 19, CAP_SYS_ADMIN },	/* vsock */
	{ 20, CAP_SYS_ADMIN },	/* crypto */
	{ 25, CAP_SYS_ADMIN },	/* sound */
	{ 26, CAP_SYS_ADMIN },	/* fs */
	{ 32, CAP_SYS_ADMIN },	/* scmi */
	{ 34, CAP_SYS_ADMIN },	/* i2c */
	{ 36, CAP_NET_ADMIN },	/* can */
	{ 40, CAP_NET_ADMIN },	/* bt */
	{ 41, CAP_SYS_ADMIN },	/* gpio */
	{ 45, CAP_SYS_ADMIN },	/* spi */
};

static bool vlo_is_chosen(u32 id)
{
	unsigned int i;

	for (i = 0; i < vlo_types_chosen_count; i++)
		if (vlo_types_chosen[i] == id)
			return true;
	return !vlo_types_chosen_count;
}

/* Returns -EAFNOSUPPORT for a type that cannot be had at all, -EPERM without its capability. */
static int vlo_may_have_type(u32 id)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vlo_types); i++)
		if (vlo_types[i].id == id && vlo_is_chosen(id))
			return capable(vlo_types[i].capability) ? 0 : -EPERM;
	return -EAFNOSUPPORT;
}

static int vlo_may_have_ram(void)
{
	if (!READ_ONCE(vlo_direct))
		return -EACCES;
	if (!capable(CAP_SYS_RAWIO))
		return -EPERM;
	return security_locked_down(LOCKDOWN_DEV_MEM) ? -EACCES : 0;
}

/**
 * vlo_may_use() - asks whether the caller may have the memory of a device
 * @device: the device
 *
 * Context: Process context.
 *
 * Return: 0; -EPERM: the caller lacks a capability; -EACCES: the administrator or the locked-down
 * kernel does not allow it.
 */
int vlo_may_use(const struct vlo_device *device)
{
	return vlo_is_direct(device) ? vlo_may_have_ram() : 0;
}

/**
 * vlo_may_attach() - asks whether the caller may take a device over
 * @device: the device
 *
 * Context: Holds vlo_list_lock.
 *
 * Return: 0; -EPERM: the caller is another user, or lacks a capability; or the error of
 * vlo_may_use().
 */
int vlo_may_attach(const struct vlo_device *device)
{
	bool is_owner = uid_eq(current_euid(), device->uid) &&
			current_user_ns() == device->user_ns;

	if (!is_owner && !capable(CAP_SYS_ADMIN))
		return -EPERM;
	return vlo_may_have_type(device->vdev.id.device) ?: vlo_may_use(device);
}

/**
 * vlo_may_have_more() - asks whether the caller may create another device
 *
 * Context: Holds vlo_list_lock.
 *
 * Return: 0, or -EDQUOT if the caller has too many.
 */
int vlo_may_have_more(void)
{
	struct vlo_device *device;
	unsigned int count = 0;

	lockdep_assert_held(&vlo_list_lock);
	if (capable(CAP_SYS_RESOURCE))
		return 0;
	list_for_each_entry(device, &vlo_list, list)
		count += uid_eq(device->uid, current_euid());
	return count < READ_ONCE(vlo_devices_per_user) ? 0 : -EDQUOT;
}

static int vlo_check_name(const char *name)
{
	size_t i, length = strnlen(name, VLO_NAME_SIZE);

	if (!length || length == VLO_NAME_SIZE)
		return -EINVAL;
	for (i = 0; i < length; i++)
		if (!(isascii(name[i]) && isalnum(name[i])) && !strchr("-_.", name[i]))
			return -EINVAL;
	return memchr_inv(name + length, 0, VLO_NAME_SIZE - length) ? -EINVAL : 0;
}

static int vlo_check_queues(const struct vlo_create *create)
{
	u16 size;
	u8 flags;
	u32 i;

	if (!create->queue_count || create->queue_count > VLO_QUEUES_MAX)
		return -EINVAL;
	for (i = 0; i < VLO_QUEUES_MAX; i++) {
		size = create->queue_sizes[i];
		flags = create->queue_flags[i];
		if (i >= create->queue_count ? size || flags :
		    !is_power_of_2(size) || size > VLO_QUEUE_SIZE_MAX ||
		    flags & ~VLO_QUEUE_FLAGS || hweight8(flags) > 1)
			return -EINVAL;
	}
	return 0;
}

/**
 * vlo_may_create() - checks a device, and whether the caller may create it
 * @create: the device
 *
 * Context: Process context.
 *
 * Return: 0; -EPROTO: another version of the interface; -EINVAL: the device makes no sense;
 * -EAFNOSUPPORT: the module does not accept the type; -EPERM: the caller lacks a capability; or
 * -EACCES as vlo_may_use().
 */
int vlo_may_create(const struct vlo_create *create)
{
	if (create->abi_version != VLO_ABI_VERSION)
		return -EPROTO;
	if (create->reserved_features || create->reserved || vlo_check_name(create->name) ||
	    create->flags & ~VLO_FLAGS ||
	    !(create->features & BIT_ULL(VIRTIO_F_VERSION_1)) ||
	    create->pool_size < VLO_POOL_SIZE_MIN || create->pool_size > VLO_POOL_SIZE_MAX ||
	    !PAGE_ALIGNED(create->pool_size) || create->takeover_ms > VLO_TAKEOVER_MS_MAX ||
	    create->stop_ms > VLO_STOP_MS_MAX || create->call_us > VLO_CALL_US_MAX ||
	    create->config_size > VLO_CONFIG_SIZE_MAX ||
	    vlo_check_queues(create) ||
	    memchr_inv(create->config + create->config_size, 0,
		       VLO_CONFIG_SIZE_MAX - create->config_size))
		return -EINVAL;
	return vlo_may_have_type(create->device_id) ?:
	       (create->flags & VLO_F_DIRECT ? vlo_may_have_ram() : 0);
}

/**
 * vlo_pool_charge() - counts a pool as locked memory of the caller
 * @pool: the pool
 *
 * Context: Process context.
 *
 * Return: 0, or -ENOMEM if the caller may not lock as much.
 */
int vlo_pool_charge(struct vlo_pool *pool)
{
	int error = account_locked_vm(current->mm, pool->page_count, true);

	if (error)
		return error;
	mmgrab(current->mm);
	pool->charged = current->mm;
	return 0;
}

/**
 * vlo_pool_uncharge() - takes a pool out of the locked memory of its creator
 * @pool: the pool
 *
 * Context: Process context.
 */
void vlo_pool_uncharge(struct vlo_pool *pool)
{
	if (!pool->charged)
		return;
	account_locked_vm(pool->charged, pool->page_count, false);
	mmdrop(pool->charged);
	pool->charged = NULL;
}
