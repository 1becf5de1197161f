"""Every parser that reads what a user, a device or another host controls, fed with what they should never send."""
