//! Objects that carry bytes or events between threads: pipes, eventfd, timerfd, epoll.
