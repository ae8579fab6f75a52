"""A recipe that trains in milliseconds without torch or numpy, so that tests of the platform are quick."""
