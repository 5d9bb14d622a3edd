import cv2


def rgb_to_i420(rgb):
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
