// SPDX-License-Identifier: GPL-2.0
/* The life of a device: made, registered, taken over, killed, removed. See the top of vlo.h. */
#include <linux/ctype.h>
#include <linux/file.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include "vlo.h"

/* The list of devices; see the top of vlo.h. */
DEFINE_MUTEX(vlo_list_lock);
LIST_HEAD(vlo_list);
static DEFINE_IDA(vlo_ids);

static void vlo_free_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, free_work);
	u32 index;

	/* These cannot be started any more, but may still be running. */
	cancel_work_sync(&device->remove_work);
	cancel_work_sync(&device->fail_work);
	cancel_delayed_work_sync(&device->orphan_work);
	for (index = 0; device->queues && index < device->queue_count; index++) {
		/* Another queue may have started it when it gave pages back. */
		cancel_work_sync(&device->queues[index].pump_work);
		irq_work_sync(&device->queues[index].call_work);
	}
	platform_device_unregister(device->parent);
	if (device->id)
		ida_free(&vlo_ids, device->id - 1);
	put_user_ns(device->user_ns);
	kvfree(device->queues);
	kfree(device);
	/* The end of this function is waited for when the workqueue is destroyed. */
	module_put(THIS_MODULE);
}

static void vlo_last_put(struct kref *refs)
{
	struct vlo_device *device = container_of(refs, struct vlo_device, refs);

	/* The last one may hold a lock, or be the driver core. */
	queue_work(vlo_wq, &device->free_work);
}

static void vlo_put(struct vlo_device *device)
{
	kref_put(&device->refs, vlo_last_put);
}

static void vlo_vdev_release(struct device *dev)
{
	vlo_put(to_vlo(dev_to_virtio(dev)));
}

/* Ends the session; without one, all requests of a dead device fail, now and later. */
static void vlo_fail_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, fail_work);

	vlo_session_end(device);
}

/**
 * vlo_kill() - fails all requests of a device and removes its driver
 * @device: the device
 * @why: the reason, for the log
 *
 * Does not wait for the driver. May be called again, from any state of the device.
 *
 * Context: Process context.
 */
void vlo_kill(struct vlo_device *device, const char *why)
{
	if (xchg(&device->dead, true))
		return;
	dev_info(&device->parent->dev, "%s: %s; its requests fail\n", device->name, why);
	wake_up_all(&device->wait);
	queue_work(vlo_rescue_wq, &device->fail_work);
	queue_work(vlo_wq, &device->remove_work);
}

/* Not in the ioctl: the probe of a driver does I/O that the caller's back end has to answer. */
static void vlo_register_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, register_work);
	int error = register_virtio_device(&device->vdev);

	if (!error) {
		device->registered = true;
		return;
	}
	dev_err(&device->parent->dev, "%s: not registered: %d\n", device->name, error);
	put_device(&device->vdev.dev);
	vlo_kill(device, "there is no virtio device");
}

static void vlo_remove_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, remove_work);
	u32 index;

	if (test_and_set_bit(0, &device->removing))
		return;
	flush_work(&device->register_work);
	/*
	 * Outstanding requests fail before their driver is on its way out: virtio_snd forgets its
	 * control requests first of all, and uses freed memory when one is answered after that.
	 */
	if (READ_ONCE(device->dead))
		flush_work(&device->fail_work);
	if (device->registered)
		unregister_virtio_device(&device->vdev);
	WRITE_ONCE(device->gone, true);
	vlo_session_end(device);
	mutex_lock(&device->lock);
	for (index = 0; index < device->queue_count; index++) {
		vlo_call_drop(&device->queues[index]);
		vlo_kick_set(&device->queues[index], NULL);
		irq_work_sync(&device->queues[index].kick_work);
	}
	mutex_unlock(&device->lock);
	/* Before another device can have the name. */
	vlo_debugfs_remove(device);
	mutex_lock(&vlo_list_lock);
	device->condemned = true;
	list_del_init(&device->list);
	mutex_unlock(&vlo_list_lock);
	cancel_delayed_work_sync(&device->orphan_work);
	vlo_post(device, VLO_EVENT_GONE);
	vlo_put(device);
}

static void vlo_orphan_work(struct work_struct *work)
{
	struct vlo_device *device = container_of(work, struct vlo_device, orphan_work.work);
	bool is_over;

	mutex_lock(&vlo_list_lock);
	is_over = !device->owner && !device->condemned;
	if (is_over)
		device->condemned = true;
	mutex_unlock(&vlo_list_lock);
	if (is_over)
		vlo_kill(device, "no adapter took it over in time");
}

static int vlo_create_parent(struct vlo_device *device)
{
	int id = ida_alloc_max(&vlo_ids, VLO_DEVICES_MAX - 1, GFP_KERNEL);
	struct platform_device *parent;

	if (id < 0)
		return id == -ENOSPC ? -EUSERS : id;
	device->id = id + 1;	/* until then 0: none */
	parent = platform_device_register_simple("virtio-loopback", id, NULL, 0);
	if (IS_ERR(parent))
		return PTR_ERR(parent);
	device->parent = parent;
	dev_set_drvdata(&parent->dev, device);
	return 0;
}

static int vlo_create_queues(struct vlo_device *device, const struct vlo_create *create)
{
	struct vlo_vq *queue;
	u32 index;

	device->queues = kvcalloc(device->queue_count, sizeof(*queue), GFP_KERNEL_ACCOUNT);
	if (!device->queues)
		return -ENOMEM;
	for (index = 0; index < device->queue_count; index++) {
		queue = &device->queues[index];
		queue->device = device;
		queue->index = index;
		queue->flags = create->queue_flags[index];
		queue->avail_paused = true;
		queue->used_paused = true;
		spin_lock_init(&queue->avail_lock);
		spin_lock_init(&queue->used_lock);
		INIT_WORK(&queue->pump_work, vlo_pump_work);
		INIT_WORK(&queue->reap_work, vlo_reap_work);
		vlo_event_init(queue);
	}
	return 0;
}

static struct vlo_device *vlo_new_device(const struct vlo_create *create)
{
	struct vlo_device *device = kzalloc(sizeof(*device), GFP_KERNEL_ACCOUNT);
	int error;

	if (!device)
		return ERR_PTR(-ENOMEM);
	/* The caller's file holds the module now; a device may outlive it. */
	__module_get(THIS_MODULE);
	kref_init(&device->refs);
	INIT_LIST_HEAD(&device->list);
	mutex_init(&device->lock);
	spin_lock_init(&device->state_lock);
	init_waitqueue_head(&device->wait);
	INIT_WORK(&device->register_work, vlo_register_work);
	INIT_WORK(&device->remove_work, vlo_remove_work);
	INIT_WORK(&device->free_work, vlo_free_work);
	INIT_WORK(&device->fail_work, vlo_fail_work);
	INIT_DELAYED_WORK(&device->orphan_work, vlo_orphan_work);
	memcpy(device->name, create->name, sizeof(device->name));
	memcpy(device->queue_sizes, create->queue_sizes, sizeof(device->queue_sizes));
	memcpy(device->config, create->config, sizeof(device->config));
	device->flags = create->flags;
	device->queue_count = create->queue_count;
	device->config_size = create->config_size;
	device->takeover_ms = create->takeover_ms;
	device->stop_ms = create->stop_ms;
	device->call_us = create->call_us;
	device->features = create->features;
	device->pool_size = create->pool_size;
	device->uid = current_euid();
	device->user_ns = get_user_ns(current_user_ns());
	device->vdev.id.device = create->device_id;
	device->vdev.id.vendor = create->vendor_id;
	device->vdev.config = &vlo_config_ops;
	device->vdev.dev.release = vlo_vdev_release;
	error = vlo_create_queues(device, create);
	if (!error)
		error = vlo_create_parent(device);
	if (error) {
		vlo_put(device);
		return ERR_PTR(error);
	}
	device->vdev.dev.parent = &device->parent->dev;
	return device;
}

static struct vlo_device *vlo_find(const char *name)
{
	struct vlo_device *device;

	lockdep_assert_held(&vlo_list_lock);
	list_for_each_entry(device, &vlo_list, list)
		if (!strcmp(device->name, name))
			return device;
	return NULL;
}

/**
 * vlo_device_create() - creates a device and gives it to an open file
 * @handle: the open file, of the adapter
 * @create: the device; vlo_may_create() has checked it
 *
 * Context: Process context.
 *
 * Return: 0; -EALREADY: the file has a device; -EEXIST: another device has that name; -EDQUOT,
 * -EUSERS: there are too many devices; -ENOMEM.
 */
int vlo_device_create(struct vlo_handle *handle, const struct vlo_create *create)
{
	struct vlo_device *device;
	int error = -EALREADY;

	mutex_lock(&handle->lock);
	if (handle->device)
		goto out;
	device = vlo_new_device(create);
	if (IS_ERR(device)) {
		error = PTR_ERR(device);
		goto out;
	}
	mutex_lock(&vlo_list_lock);
	error = vlo_find(device->name) ? -EEXIST : vlo_may_have_more();
	if (error) {
		mutex_unlock(&vlo_list_lock);
		vlo_put(device);
		goto out;
	}
	/* Held by the list, this file, and the virtio device. */
	kref_get(&device->refs);
	kref_get(&device->refs);
	handle->process = get_pid(task_tgid(current));
	device->owner = handle;
	list_add_tail(&device->list, &vlo_list);
	mutex_unlock(&vlo_list_lock);
	vlo_debugfs_add(device);
	smp_store_release(&handle->device, device);	/* after all that is in it */
	queue_work(vlo_wq, &device->register_work);
out:
	mutex_unlock(&handle->lock);
	return error;
}

/**
 * vlo_device_attach() - takes over a device whose adapter has died
 * @handle: the open file, of the new adapter
 * @name: the name of the device
 *
 * Context: Process context.
 *
 * Return: 0; -EALREADY: the file has a device; -ENOENT: no device has that name; -EBUSY: it has an
 * adapter; -ENODEV: it is being removed; or the error of vlo_may_attach().
 */
int vlo_device_attach(struct vlo_handle *handle, const char *name)
{
	struct vlo_device *device;
	int error = -EALREADY;

	mutex_lock(&handle->lock);
	if (handle->device)
		goto out;
	mutex_lock(&vlo_list_lock);
	device = vlo_find(name);
	error = !device ? -ENOENT : vlo_may_attach(device);
	if (!error && (device->owner || device->condemned))
		error = device->owner ? -EBUSY : -ENODEV;
	if (!error) {
		handle->process = get_pid(task_tgid(current));
		device->owner = handle;
		kref_get(&device->refs);
	}
	mutex_unlock(&vlo_list_lock);
	if (error)
		goto out;
	cancel_delayed_work(&device->orphan_work);
	/* The dead adapter may have read these and done nothing about them. */
	vlo_post(device, VLO_EVENT_STATUS | VLO_EVENT_QUEUES | VLO_EVENT_RESET | VLO_EVENT_CONFIG);
	smp_store_release(&handle->device, device);	/* after all that is in it */
out:
	mutex_unlock(&handle->lock);
	return error;
}

/**
 * vlo_device_release() - the adapter has closed its file, or died
 * @handle: the open file
 *
 * Waits for nothing: the caller may be a dying process.
 *
 * Context: Process context.
 */
void vlo_device_release(struct vlo_handle *handle)
{
	struct vlo_device *device = handle->device;
	bool is_over;

	if (!device)
		return;
	mutex_lock(&vlo_list_lock);
	WRITE_ONCE(device->owner, NULL);
	is_over = device->condemned || !device->takeover_ms;
	device->condemned = is_over;
	/* In the lock: the next owner must find it, to cancel it. */
	if (!is_over)
		queue_delayed_work(vlo_rescue_wq, &device->orphan_work,
				   msecs_to_jiffies(device->takeover_ms));
	mutex_unlock(&vlo_list_lock);
	wake_up_all(&device->wait);
	if (is_over && !READ_ONCE(device->gone))
		vlo_kill(device, "its adapter has gone");
	vlo_put(device);
}

/**
 * vlo_device_remove() - removes a device while its back end serves the last requests
 * @device: the device
 *
 * Context: Process context.
 */
void vlo_device_remove(struct vlo_device *device)
{
	mutex_lock(&vlo_list_lock);
	device->condemned = true;
	mutex_unlock(&vlo_list_lock);
	queue_work(vlo_wq, &device->remove_work);
}

/**
 * vlo_device_exit() - frees what the module keeps for devices
 *
 * No device exists by then: each of them holds the module.
 *
 * Context: Process context.
 */
void vlo_device_exit(void)
{
	ida_destroy(&vlo_ids);
}
