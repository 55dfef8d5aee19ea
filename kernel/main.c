// SPDX-License-Identifier: GPL-2.0
/* The module: what is there once, and its parameters. */
#include <linux/module.h>
#include <xen/xen.h>
#include "vlo.h"

/* Drivers are bound and unbound here: they wait for much, memory included. */
struct workqueue_struct *vlo_wq;
/* This one ends waiting, also that for memory which is written back to a dead device. */
struct workqueue_struct *vlo_rescue_wq;
/* Copies for queues whose requests are large. */
struct workqueue_struct *vlo_io_wq;

unsigned int vlo_inline_bytes = 65536;
module_param_named(inline_bytes, vlo_inline_bytes, uint, 0644);
MODULE_PARM_DESC(inline_bytes, "bytes copied with interrupts off, at a time; more is copied in a thread (default: 65536)");

static void vlo_destroy_workqueues(void)
{
	if (vlo_io_wq)
		destroy_workqueue(vlo_io_wq);
	if (vlo_rescue_wq)
		destroy_workqueue(vlo_rescue_wq);
	if (vlo_wq)
		destroy_workqueue(vlo_wq);
}

static int __init vlo_init(void)
{
	int error = -ENOMEM;

	/* There virtio's addresses are the hypervisor's, or those of copies. */
	if (xen_domain()) {
		pr_err("virtio_loopback: not on Xen\n");
		return -EOPNOTSUPP;
	}
	vlo_wq = alloc_workqueue("virtio-loopback", WQ_UNBOUND, 0);
	vlo_rescue_wq = alloc_workqueue("virtio-loopback-rescue", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	vlo_io_wq = alloc_workqueue("virtio-loopback-io", WQ_UNBOUND | WQ_HIGHPRI | WQ_MEM_RECLAIM,
				    0);
	if (!vlo_wq || !vlo_rescue_wq || !vlo_io_wq)
		goto fail;
	error = vlo_ram_init();
	if (error)
		goto fail;
	vlo_debugfs_init();
	error = vlo_pm_init();
	if (error)
		goto fail_debugfs;
	error = vlo_chardev_init();
	if (!error)
		return 0;
	vlo_pm_exit();
fail_debugfs:
	vlo_debugfs_exit();
	vlo_ram_exit();
fail:
	vlo_destroy_workqueues();
	return error;
}

/* Open files hold this module, and they hold the devices, which hold it until they are gone. */
static void __exit vlo_exit(void)
{
	vlo_chardev_exit();
	vlo_pm_exit();
	vlo_destroy_workqueues();
	vlo_debugfs_exit();
	vlo_ram_exit();
	vlo_device_exit();
}

module_init(vlo_init);
module_exit(vlo_exit);
MODULE_DESCRIPTION("virtio transport whose devices are processes");
MODULE_LICENSE("GPL");
MODULE_VERSION("2.0");
