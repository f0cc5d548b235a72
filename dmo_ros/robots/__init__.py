"""Adapters to the robots' own interfaces; an SDK is imported when a robot is connected."""
