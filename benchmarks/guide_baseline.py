"""The baseline of the speed benchmarks: network, training and prediction as a person would write them from the guide

    python -m benchmarks.guide_baseline CHECKPOINT.pth PHOTO.jpg ...        its snippet; the model is loaded once

Photos are opened at 6000x3000 in each epoch. Where the guide leaves a choice, this takes the fastest: one worker for
each core, kept from epoch to epoch.
"""

import sys

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from coinkit.cli import usable_cores

BATCH_SIZE = 4
LEARNING_RATE = 0.001


class CoinClassifier(nn.Module):
    """The network as the guide draws it; with a smaller `width` than 64, all layers are narrower in proportion."""

    def __init__(self, num_classes, image_width=512, image_height=256, width=64):
        super().__init__()
        self.image_width, self.image_height = image_width, image_height

        def conv_block(in_channels, out_channels, convs):
            layers = []
            for inputs in [in_channels] + [out_channels] * (convs - 1):
                layers += [nn.Conv2d(inputs, out_channels, 3, padding=1), nn.ReLU()]
            return nn.Sequential(*layers, nn.MaxPool2d(2, 2))

        self.conv_block1 = conv_block(3, width, 2)
        self.conv_block2 = conv_block(width, 2 * width, 2)
        self.conv_block3 = conv_block(2 * width, 4 * width, 3)
        self.conv_block4 = conv_block(4 * width, 8 * width, 3)
        self.conv_block5 = conv_block(8 * width, 8 * width, 2)
        self.fc1 = nn.Linear(8 * width * (image_width // 32) * (image_height // 32), 32 * width)
        self.dropout1 = nn.Dropout(0.5)
        self.fc2 = nn.Linear(32 * width, 16 * width)
        self.dropout2 = nn.Dropout(0.5)
        self.fc3 = nn.Linear(16 * width, num_classes)

    def forward(self, x):
        """Return logits (N, num_classes) of photos (N, 3, H, W)."""
        x = self.conv_block1(x)
        x = self.conv_block2(x)
        x = self.conv_block3(x)
        x = self.conv_block4(x)
        x = self.conv_block5(x)
        x = torch.flatten(x, 1)
        x = self.dropout1(torch.relu(self.fc1(x)))
        x = self.dropout2(torch.relu(self.fc2(x)))
        return self.fc3(x)


def make_transform(image_width, image_height):
    """Return the transform from a photo to the network's input."""
    return transforms.Compose(
        [
            transforms.Resize((image_height, image_width)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


def make_loader(images, image_width, image_height):
    """Return batches of the photos in <images>/<grade>/6000x3000/."""
    dataset = ImageFolder(images, make_transform(image_width, image_height))
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=usable_cores(), persistent_workers=True)


def make_optimizer(model):
    """Return Adam, as the guide has it."""
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def train_epoch(model, optimizer, loader, device):
    """Go through the photos once; return the mean loss and the accuracy."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    loss_sum, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(images)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(images)
        correct += (outputs.argmax(1) == labels).sum().item()
    return loss_sum / len(loader.dataset), correct / len(loader.dataset)


def save(model, optimizer, classes, path, **architecture):
    """Write the checkpoint that the guide describes."""
    checkpoint = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "best_val_acc": 0.0,
        "classes": classes,
        "architecture": architecture,  # so that smaller networks can be loaded too
    }
    torch.save(checkpoint, path)


def predict(checkpoint, photos):
    """Print the grades of photos: the guide's snippet, whose last part runs once for each photo."""
    # Load checkpoint
    checkpoint = torch.load(checkpoint)
    classes = checkpoint["classes"]

    # Recreate model
    model = CoinClassifier(num_classes=len(classes), **checkpoint["architecture"])
    model.load_state_dict(checkpoint["model_state_dict"])
    model.eval()

    # Prepare image
    transform = make_transform(model.image_width, model.image_height)

    # Load and predict
    for photo in photos:
        img = Image.open(photo)
        img_tensor = transform(img).unsqueeze(0)

        with torch.no_grad():
            outputs = model(img_tensor)
            probabilities = torch.softmax(outputs, dim=1)
            confidence, predicted = torch.max(probabilities, 1)

            grade = classes[predicted.item()]
            conf_pct = confidence.item() * 100

            print(f"Predicted Grade: {grade}")
            print(f"Confidence: {conf_pct:.2f}%")

            # Show the top predictions
            top_conf, top_idx = torch.topk(probabilities, min(3, len(classes)))
            print("\nTop Predictions:")
            for i in range(len(top_idx[0])):
                print(f"  {classes[top_idx[0][i]]}: {top_conf[0][i] * 100:.2f}%")


if __name__ == "__main__":
    predict(sys.argv[1], sys.argv[2:])
