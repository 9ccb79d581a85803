"""The view from outside: is the public address ours, and does GitHub share our clock?"""
