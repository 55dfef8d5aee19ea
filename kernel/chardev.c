// SPDX-License-Identifier: GPL-2.0
/* /dev/virtio-loopback: the interface of virtio_loopback.h. */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "vlo.h"

static struct vlo_device *vlo_device_of(struct vlo_handle *handle)
{
	/* With all that was set before the handle got it. */
	return smp_load_acquire(&handle->device);
}

static int vlo_ioctl_create(struct vlo_handle *handle, void __user *argument)
{
	struct vlo_create *create = memdup_user(argument, sizeof(*create));
	int error;

	if (IS_ERR(create))
		return PTR_ERR(create);
	error = vlo_may_create(create);
	if (!error)
		error = vlo_device_create(handle, create);
	kfree(create);
	return error;
}

static int vlo_ioctl_attach(struct vlo_handle *handle, void __user *argument)
{
	struct vlo_attach attach;

	if (copy_from_user(&attach, argument, sizeof(attach)))
		return -EFAULT;
	if (attach.abi_version != VLO_ABI_VERSION)
		return -EPROTO;
	if (attach.reserved || strnlen(attach.name, VLO_NAME_SIZE) == VLO_NAME_SIZE)
		return -EINVAL;
	return vlo_device_attach(handle, attach.name);
}

static int vlo_ioctl_info(struct vlo_device *device, void __user *argument)
{
	struct vlo_info info = {
		.abi_version = VLO_ABI_VERSION,
		.id = device->id - 1,
		.flags = device->flags,
		.device_id = device->vdev.id.device,
		.vendor_id = device->vdev.id.vendor,
		.queue_count = device->queue_count,
		.config_size = device->config_size,
		.takeover_ms = device->takeover_ms,
		.stop_ms = device->stop_ms,
		.call_us = device->call_us,
		.features = device->features,
		.driver_features = device->vdev.features,
		.pool_size = device->pool_size,
	};
	u32 index;

	memcpy(info.name, device->name, sizeof(info.name));
	memcpy(info.queue_sizes, device->queue_sizes, sizeof(info.queue_sizes));
	for (index = 0; index < device->queue_count; index++)
		info.queue_flags[index] = device->queues[index].flags;
	return copy_to_user(argument, &info, sizeof(info)) ? -EFAULT : 0;
}

static int vlo_ioctl_start(struct vlo_device *device, void __user *argument)
{
	struct vlo_session session;
	int error;

	if (copy_from_user(&session, argument, sizeof(session)))
		return -EFAULT;
	error = vlo_may_use(device);
	if (!error)
		error = vlo_session_start(device, &session);
	if (error)
		return error;
	return copy_to_user(argument, &session, sizeof(session)) ? -EFAULT : 0;
}

static struct vlo_vq *vlo_queue_at(struct vlo_device *device, u32 index)
{
	if (index >= device->queue_count)
		return NULL;
	return &device->queues[array_index_nospec(index, device->queue_count)];
}

static int vlo_ioctl_queue(struct vlo_device *device, void __user *argument)
{
	struct vlo_queue answer = {};
	struct vlo_vq *queue;

	if (copy_from_user(&answer.index, argument, sizeof(answer.index)))
		return -EFAULT;
	queue = vlo_queue_at(device, answer.index);
	if (!queue)
		return -EINVAL;
	mutex_lock(&device->lock);
	answer.state = queue->is_ready ? VLO_QUEUE_MADE : 0;
	if (queue->is_ready && queue->pool) {
		answer.state = VLO_QUEUE_STARTED;
		answer.size = queue->size;
		answer.base = queue->ring.base;
		answer.descriptor = queue->ring.descriptor;
		answer.driver = queue->ring.driver;
		answer.device = queue->ring.device;
	}
	mutex_unlock(&device->lock);
	return copy_to_user(argument, &answer, sizeof(answer)) ? -EFAULT : 0;
}

/* Under device->lock. The file stays valid while the caller holds a reference to it. */
static struct file *vlo_memory_of(struct vlo_device *device, struct vlo_memory *answer)
{
	if (answer->index == 0 && device->pool) {
		answer->address = device->pool->address;
		answer->size = device->pool_size;
		return get_file(device->pool->file);
	}
	if (answer->index == 1 && device->pool && device->pool->ram) {
		answer->address = 0;
		answer->size = vlo_ram_size(device->pool->ram);
		return get_file(device->pool->ram);
	}
	return NULL;
}

static int vlo_ioctl_memory(struct vlo_device *device, void __user *argument)
{
	struct vlo_memory answer;
	struct file *file;
	int error, fd;

	if (copy_from_user(&answer, argument, sizeof(answer)))
		return -EFAULT;
	if (answer.index > 1)
		return -EINVAL;
	error = vlo_may_use(device);
	if (error)
		return error;
	mutex_lock(&device->lock);
	file = vlo_memory_of(device, &answer);
	mutex_unlock(&device->lock);
	if (!file)
		return -ENOENT;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0) {
		fput(file);
		return fd;
	}
	answer.fd = fd;
	if (copy_to_user(argument, &answer, sizeof(answer))) {
		put_unused_fd(fd);
		fput(file);
		return -EFAULT;
	}
	fd_install(fd, file);
	return 0;
}

static int vlo_set_kick(struct vlo_vq *queue, struct file *file)
{
	struct vlo_device *device = queue->device;
	struct eventfd_ctx *kick = file ? eventfd_ctx_fileget(file) : NULL;
	int error = 0;

	if (IS_ERR(kick))
		return PTR_ERR(kick);
	mutex_lock(&device->lock);
	if (READ_ONCE(device->gone)) {
		error = -ENODEV;
		if (kick)
			eventfd_ctx_put(kick);
	} else {
		vlo_kick_set(queue, kick);
	}
	mutex_unlock(&device->lock);
	return error;
}

static int vlo_set_call(struct vlo_vq *queue, struct file *file)
{
	struct vlo_device *device = queue->device;

	if (file)
		return vlo_call_set(queue, file);
	mutex_lock(&device->lock);
	vlo_call_drop(queue);
	mutex_unlock(&device->lock);
	return 0;
}

static int vlo_ioctl_eventfd(struct vlo_device *device, bool is_call, void __user *argument)
{
	struct file *file = NULL;
	struct vlo_vq *queue;
	struct vlo_fd event;
	int error;

	if (copy_from_user(&event, argument, sizeof(event)))
		return -EFAULT;
	queue = vlo_queue_at(device, event.index);
	if (!queue || event.fd < -1)
		return -EINVAL;
	if (event.fd >= 0) {
		file = fget(event.fd);
		if (!file)
			return -EBADF;
	}
	error = is_call ? vlo_set_call(queue, file) : vlo_set_kick(queue, file);
	if (file)
		fput(file);
	return error;
}

static int vlo_ioctl_config(struct vlo_device *device, bool is_write, void __user *argument)
{
	struct vlo_config config;
	bool is_change = false;
	unsigned long flags;

	if (copy_from_user(&config, argument, sizeof(config)))
		return -EFAULT;
	if (config.offset > device->config_size ||
	    config.size > device->config_size - config.offset)
		return -EINVAL;
	spin_lock_irqsave(&device->state_lock, flags);
	if (is_write) {
		is_change = memcmp(device->config + config.offset, config.bytes, config.size);
		memcpy(device->config + config.offset, config.bytes, config.size);
		WRITE_ONCE(device->generation, device->generation + is_change);
	} else {
		memset(config.bytes, 0, sizeof(config.bytes));
		memcpy(config.bytes, device->config + config.offset, config.size);
	}
	spin_unlock_irqrestore(&device->state_lock, flags);
	if (!is_write)
		return copy_to_user(argument, &config, sizeof(config)) ? -EFAULT : 0;
	if (is_change && READ_ONCE(device->known))
		virtio_config_changed(&device->vdev);
	return 0;
}

static int vlo_ioctl_ack(struct vlo_device *device, void __user *argument)
{
	unsigned long flags;
	u32 sequence;
	int error = 0;

	if (copy_from_user(&sequence, argument, sizeof(sequence)))
		return -EFAULT;
	spin_lock_irqsave(&device->state_lock, flags);
	/* Between what was acknowledged last and what there is to acknowledge. */
	if (sequence - device->acked > device->sequence - device->acked)
		error = -EINVAL;
	else
		WRITE_ONCE(device->acked, sequence);
	spin_unlock_irqrestore(&device->state_lock, flags);
	wake_up_all(&device->wait);
	return error;
}

static long vlo_ioctl(struct file *file, unsigned int command, unsigned long value)
{
	struct vlo_handle *handle = file->private_data;
	void __user *argument = (void __user *)value;
	struct vlo_device *device;

	if (command == VLO_CREATE)
		return vlo_ioctl_create(handle, argument);
	if (command == VLO_ATTACH)
		return vlo_ioctl_attach(handle, argument);
	device = vlo_device_of(handle);
	if (!device)
		return -EUNATCH;
	if (READ_ONCE(device->gone))
		return -ENODEV;
	switch (command) {
	case VLO_GET_INFO:
		return vlo_ioctl_info(device, argument);
	case VLO_START:
		return vlo_ioctl_start(device, argument);
	case VLO_GET_QUEUE:
		return vlo_ioctl_queue(device, argument);
	case VLO_GET_MEMORY:
		return vlo_ioctl_memory(device, argument);
	case VLO_SET_KICK:
	case VLO_SET_CALL:
		return vlo_ioctl_eventfd(device, command == VLO_SET_CALL, argument);
	case VLO_GET_CONFIG:
	case VLO_SET_CONFIG:
		return vlo_ioctl_config(device, command == VLO_SET_CONFIG, argument);
	case VLO_ACK:
		return vlo_ioctl_ack(device, argument);
	case VLO_REMOVE:
		vlo_device_remove(device);
		return 0;
	default:
		return -ENOTTY;
	}
}

static ssize_t vlo_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
	struct vlo_handle *handle = file->private_data;
	struct vlo_device *device = vlo_device_of(handle);
	struct vlo_event event = {};
	unsigned long flags;

	if (!device)
		return -EUNATCH;
	if (count < sizeof(event))
		return -EINVAL;
	while (!event.events) {
		if (!READ_ONCE(device->events)) {
			if (READ_ONCE(device->gone))
				return -ENODEV;
			if (file->f_flags & O_NONBLOCK)
				return -EAGAIN;
			if (wait_event_interruptible(device->wait, READ_ONCE(device->events) ||
						     READ_ONCE(device->gone)))
				return -ERESTARTSYS;
		}
		spin_lock_irqsave(&device->state_lock, flags);
		event.events = device->events;
		event.status = device->status;
		event.sequence = device->sequence;
		event.unacked = device->sequence != device->acked;
		device->events = 0;
		spin_unlock_irqrestore(&device->state_lock, flags);
	}
	if (copy_to_user(buffer, &event, sizeof(event))) {
		vlo_post(device, event.events);
		return -EFAULT;
	}
	return sizeof(event);
}

static __poll_t vlo_poll(struct file *file, poll_table *table)
{
	struct vlo_handle *handle = file->private_data;
	struct vlo_device *device = vlo_device_of(handle);

	if (!device)
		return EPOLLERR;
	poll_wait(file, &device->wait, table);
	return (READ_ONCE(device->events) ? EPOLLIN | EPOLLRDNORM : 0) |
	       (READ_ONCE(device->gone) ? EPOLLHUP : 0);
}

static int vlo_open(struct inode *inode, struct file *file)
{
	struct vlo_handle *handle = kzalloc(sizeof(*handle), GFP_KERNEL_ACCOUNT);

	if (!handle)
		return -ENOMEM;
	mutex_init(&handle->lock);
	file->private_data = handle;
	return 0;
}

static int vlo_release(struct inode *inode, struct file *file)
{
	struct vlo_handle *handle = file->private_data;

	vlo_device_release(handle);
	put_pid(handle->process);
	kfree(handle);
	return 0;
}

static const struct file_operations vlo_fops = {
	.owner = THIS_MODULE,
	.open = vlo_open,
	.release = vlo_release,
	.read = vlo_read,
	.poll = vlo_poll,
	.unlocked_ioctl = vlo_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice vlo_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "virtio-loopback",
	.mode = 0600,
	.fops = &vlo_fops,
};

/**
 * vlo_chardev_init() - sets up /dev/virtio-loopback, when the module is loaded
 *
 * Context: Process context.
 *
 * Return: 0, or a negative error number.
 */
int vlo_chardev_init(void)
{
	return misc_register(&vlo_misc);
}

/**
 * vlo_chardev_exit() - takes /dev/virtio-loopback down, when the module is removed
 *
 * Context: Process context.
 */
void vlo_chardev_exit(void)
{
	misc_deregister(&vlo_misc);
}
